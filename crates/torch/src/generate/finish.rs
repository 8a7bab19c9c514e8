//! Why a text ends.

use hydrometer_base::choice;

choice! {
    /// Why a text ends.
    Finish {
        EndToken = "end-token",
        /// It has a stop string.
        Stop = "stop",
        /// It has as many new tokens as were asked for.
        Length = "length",
        /// The model has no further positions.
        Context = "context",
    }
}
