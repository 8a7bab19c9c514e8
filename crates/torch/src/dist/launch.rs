//! This program again, as several ranks on this machine: each is told what torchrun would tell it.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hydrometer_base::cores;

use super::c10d::Store;

const POLL: Duration = Duration::from_millis(10);
const GRACE: Duration = Duration::from_secs(2);

/// Prepares `command` to be rank `rank` of `world`, which meet at `store` (none for a single rank).
pub fn rank_of(command: &mut Command, rank: usize, world: usize, threads: usize, store: Option<&Store>) -> Result<()> {
    command.env("OMP_NUM_THREADS", threads.to_string()).env("RANK", rank.to_string());
    // Threads that wait spin for microseconds only: on a machine that is busy otherwise, spinning starves the one they wait for.
    command.env("GOMP_SPINCOUNT", "20000");
    // tokenizers and polars must not start thread pools of their own in a rank.
    command.env("RAYON_NUM_THREADS", "1").env("POLARS_MAX_THREADS", "1");
    // What a queue or torchrun has said to this process is no word to a rank that is alone.
    for name in ["WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"] {
        command.env_remove(name);
    }
    if let Some(store) = store {
        command
            .env("WORLD_SIZE", world.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", store.port()?.to_string())
            .env("TORCHELASTIC_USE_AGENT_STORE", "True");
    }
    Ok(())
}

/// Whether this process is one of several ranks already.
pub fn is_rank() -> bool {
    std::env::var_os("WORLD_SIZE").is_some()
}

/// Runs this program with the arguments it was given as `world` ranks and waits for them; the first one writes to our standard
/// output and error. Returns the status of a rank that failed, if any.
pub fn ranks(world: usize) -> Result<ExitStatus> {
    let store = Store::serve()?;
    let threads = (cores() / world).max(1);
    let mut children = Vec::new();
    for rank in 0..world {
        let mut command = Command::new(std::env::current_exe().context("where is this program?")?);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
        if rank > 0 {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        rank_of(&mut command, rank, world, threads, Some(&store))?;
        children.push(command.spawn().context("cannot start a rank")?);
    }
    wait(&mut children)
}

/// Waits until all have ended. Once one has failed the others cannot go on: they get a moment to say so.
fn wait(children: &mut [Child]) -> Result<ExitStatus> {
    let mut failed: Option<(Instant, ExitStatus)> = None;
    loop {
        let mut running = false;
        let mut last = None;
        for child in children.iter_mut() {
            match child.try_wait()? {
                Some(status) if status.success() => last = Some(status),
                Some(status) => failed = failed.or(Some((Instant::now(), status))),
                None => running = true,
            }
        }
        match (failed, last) {
            (Some((_, status)), _) if !running => return Ok(status),
            (None, Some(status)) if !running => return Ok(status),
            (Some((since, _)), _) if since.elapsed() > GRACE => {
                for child in children.iter_mut() {
                    let _ = child.kill();
                }
            }
            _ => {}
        }
        sleep(POLL);
    }
}
