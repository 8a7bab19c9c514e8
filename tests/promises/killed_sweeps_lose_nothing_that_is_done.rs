//! Oracle: the same sweep without kills. Every frame agrees bit for bit, and every journal records exactly one completion.

use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hydrometer::record::journal::Event;

use super::lab::{EXPERIMENT, Lab, same_frames};

const KILLS: usize = 20;

/// Random numbers in [0, 1), seeded by the clock; the seed is printed.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        println!("seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn children(program: &Child) -> Vec<String> {
    let found = Command::new("pgrep").args(["-P", &program.id().to_string()]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).split_whitespace().map(String::from).collect()
}

fn kill_9(pid: &str) {
    Command::new("kill").args(["-9", pid]).status().unwrap();
}

#[test]
fn sweeps_killed_at_20_random_moments_end_with_the_same_frames() {
    let lab = Lab::new();
    lab.write("lab.toml", &EXPERIMENT.replace("seeds   = 1", "seeds   = 4").replace("12.8k", "20k"));
    let begun = Instant::now();
    lab.ok(&["run", "lab.toml", "--runs", "calm", "--results", "calm-results", "--jobs", "2"]);
    let whole = begun.elapsed();
    let torn = ["run", "lab.toml", "--runs", "torn", "--results", "torn-results", "--jobs", "2"];
    let (mut chance, mut kills) = (Chance::new(), [0; 3]);
    for _ in 0..KILLS {
        let mut program = lab.start(&torn);
        sleep(whole.mul_f64(0.02 + 0.05 * chance.next()));
        if program.try_wait().unwrap().is_some() {
            break;
        }
        // If only the worker is killed, the program survives; give it a little time to retry before it is killed too.
        let workers = children(&program);
        let whom = (3.0 * chance.next()) as usize;
        kills[whom] += 1;
        if whom == 0 {
            workers.iter().take(1).for_each(|pid| kill_9(pid));
            sleep(Duration::from_millis(300));
        }
        kill_9(&program.id().to_string());
        if whom == 1 {
            workers.iter().for_each(|pid| kill_9(pid));
        }
        program.wait().unwrap();
    }
    println!("killed: a worker, then the program {}; all {}; the program alone {}", kills[0], kills[1], kills[2]);
    assert!(kills.iter().sum::<usize>() >= KILLS / 2, "the sweep ended before enough kills");
    lab.ok(&torn);
    assert!(same_frames(&lab.frames("torn-results"), &lab.frames("calm-results")));
    let histories = lab.histories("torn");
    let runs = histories.iter().filter(|(folder, _)| !folder.starts_with("cache"));
    assert_eq!(runs.clone().count(), 12 + 12 + 1 + 1, "students, their fidelity, teacher, baseline: {:?}", histories.keys());
    for (folder, events) in runs {
        let done: Vec<usize> = events.iter().enumerate().filter(|(_, e)| **e == Event::Done).map(|(at, _)| at).collect();
        assert_eq!(done, [events.len() - 1], "{folder} is done once, and that is the end of it");
    }
    let frames = lab.frames("torn-results");
    let statuses = frames[0].column("status").unwrap().str().unwrap().iter().flatten().filter(|status| *status == "ok").count();
    assert_eq!(statuses, 12 + 1 + 1);
}
