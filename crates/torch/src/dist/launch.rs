//! Launches this program as several ranks on this machine, with the environment variables that torchrun would set.

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hydrometer_base::cores;

use super::c10d::Store;

const POLL: Duration = Duration::from_millis(10);
/// How long the others may take to say that one is gone, where nobody waits for a checkpoint.
const GRACE: Duration = Duration::from_secs(2);

/// Configures `command` as rank `rank` of `world`, which rendezvous at `store` (`None` for a single rank).
pub fn rank_of(command: &mut Command, rank: usize, world: usize, threads: usize, store: Option<&Store>) -> Result<()> {
    command.env("OMP_NUM_THREADS", threads.to_string()).env("RANK", rank.to_string());
    // GOMP threads spin only for microseconds: on a busy machine, spinning starves the thread that is waited for.
    command.env("GOMP_SPINCOUNT", "20000");
    // tokenizers and polars must not start their own thread pools in a rank.
    command.env("RAYON_NUM_THREADS", "1").env("POLARS_MAX_THREADS", "1");
    // Variables that a scheduler or torchrun has set for this process do not apply to a rank that runs alone.
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

/// Whether this process is already one of several ranks.
pub fn is_rank() -> bool {
    std::env::var_os("WORLD_SIZE").is_some()
}

/// Runs this program with its own arguments as `world` ranks and waits for them. Rank 0 writes to our standard output and error.
/// Returns the exit status of a rank that failed, if any.
pub fn ranks(world: usize) -> Result<ExitStatus> {
    let store = Store::serve()?;
    let threads = (cores() / world).max(1);
    let mut children = Vec::new();
    for rank in 0..world {
        let mut command = Command::new(std::env::current_exe().context("cannot find the path of this program")?);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
        if rank > 0 {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        rank_of(&mut command, rank, world, threads, Some(&store))?;
        children.push(command.spawn().context("cannot start a rank")?);
    }
    let mut statuses = wait(&mut children, GRACE).into_iter().map(|(_, status)| status).collect::<io::Result<Vec<_>>>()?;
    let failed = statuses.iter().find(|status| !status.success()).copied();
    failed.or(statuses.pop()).context("no rank was started")
}

/// Waits until all ranks have ended. Returns each rank's number and exit status, in the order in which they ended. Once one has
/// failed the others cannot continue: they get `grace` to report it and are then killed. Ranks killed here are left out.
pub fn wait(ranks: &mut [Child], grace: Duration) -> Vec<(usize, io::Result<ExitStatus>)> {
    let mut ended = Vec::new();
    let mut failed: Option<Instant> = None;
    let mut running: Vec<usize> = (0..ranks.len()).collect();
    loop {
        running.retain(|&rank| {
            let status = match ranks[rank].try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) => Ok(status),
                Err(error) => Err(error),
            };
            if !status.as_ref().is_ok_and(ExitStatus::success) {
                failed.get_or_insert_with(Instant::now);
            }
            ended.push((rank, status));
            false
        });
        if failed.is_some_and(|since| since.elapsed() > grace) {
            running.drain(..).for_each(|rank| drop(ranks[rank].kill().and_then(|()| ranks[rank].wait())));
        }
        if running.is_empty() {
            return ended;
        }
        sleep(POLL);
    }
}
