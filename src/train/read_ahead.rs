//! Reads the inputs of passes on a thread of its own, one pass ahead of the one that is computed.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use anyhow::{Context, Result, anyhow};
use hydrometer_base::guard::outermost;
use hydrometer_data::batch::Row;

use super::passes::{PassInput, PassSource};

/// One pass, as read.
pub struct ReadPass {
    /// `None` if this rank's share of the batch is empty.
    pub input: Option<PassInput>,
    /// Whether it is the last pass of its batch.
    pub last: bool,
}

/// The reading thread, which ends when this is dropped.
pub struct ReadAhead<'a> {
    batches: Sender<&'a [Row]>,
    passes: Receiver<Result<ReadPass>>,
}

impl<'a> ReadAhead<'a> {
    /// Starts the thread in `scope`.
    pub fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, source: &'a PassSource<'a>) -> Self
    where
        'a: 'scope,
    {
        let (batches, wanted) = channel();
        // Without a buffer, the thread waits with one pass until that is taken.
        let (read, passes) = sync_channel(0);
        scope.spawn(move || read_all(source, &wanted, &read));
        Self { batches, passes }
    }

    /// Asks for the passes of the global batch `rows`, after all that was asked for before.
    pub fn ask(&self, rows: &'a [Row]) -> Result<()> {
        self.batches.send(rows).map_err(|_| anyhow!("the thread that reads batches has ended"))
    }

    /// The next pass of what was asked for.
    pub fn next(&self) -> Result<ReadPass> {
        self.passes.recv().context("the thread that reads batches has ended")?
    }
}

/// Reads each batch of `wanted`, until nobody takes it or there is an error.
fn read_all(source: &PassSource, wanted: &Receiver<&[Row]>, read: &SyncSender<Result<ReadPass>>) {
    while let Ok(rows) = wanted.recv() {
        let passes = source.passes(rows);
        let count = passes.len().max(1);
        for index in 0..count {
            // What panics is tch where memory ends; the thread that computes must learn of it.
            let input = match passes.get(index).map(|pass| outermost(|| source.read(pass))) {
                Some(Ok(input)) => input.map(Some),
                Some(Err(panic)) => Err(anyhow!(panic.message)),
                None => Ok(None),
            };
            let failed = input.is_err();
            let pass = input.map(|input| ReadPass { input, last: index + 1 == count });
            if read.send(pass).is_err() || failed {
                return;
            }
        }
    }
}
