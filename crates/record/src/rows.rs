//! Rows as structs: a frame with one column for each field, written and read.

use anyhow::{Result, anyhow};
use polars::prelude::*;

/// Declares a row type together with the frame of its rows, one column per field.
macro_rules! frame_rows {
    ($(#[$meta:meta])* $row:ident { $($(#[$field_meta:meta])* $field:ident : $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $row { $($(#[$field_meta])* pub $field: $kind),* }
        impl $row {
            /// The frame of these rows, in this order.
            pub fn frame(rows: &[$row]) -> PolarsResult<DataFrame> {
                DataFrame::new(rows.len(), vec![
                    $(Column::new(stringify!($field).into(), rows.iter().map(|row| row.$field.clone()).collect::<Vec<_>>())),*
                ])
            }

            /// The rows of a frame, in its order. Other columns are ignored.
            pub fn rows(frame: &DataFrame) -> ::anyhow::Result<Vec<$row>> {
                $(let mut $field = <$kind as $crate::rows::Field>::column(frame, stringify!($field))?.into_iter();)*
                (0..frame.height()).map(|_| Ok($row { $($field: $crate::rows::next(&mut $field)?),* })).collect()
            }
        }
    };
}

pub(super) fn next<T>(values: &mut impl Iterator<Item = T>) -> Result<T> {
    values.next().ok_or_else(|| anyhow!("columns of unequal length"))
}

/// A type of the values in a column.
pub(super) trait Field: Sized {
    fn of(column: &Column) -> PolarsResult<Vec<Option<Self>>>;

    /// The value in every row of a frame without the column, which was written before the column existed.
    fn absent() -> Option<Self> {
        None
    }

    fn column(frame: &DataFrame, name: &str) -> Result<Vec<Self>> {
        let missing = || anyhow!("the column `{name}` is missing");
        let Ok(column) = frame.column(name) else {
            // An error even without rows: this program never wrote a frame without the column.
            if Self::absent().is_none() {
                return Err(missing());
            }
            return (0..frame.height()).map(|_| Self::absent().ok_or_else(missing)).collect();
        };
        let null = || anyhow!("the column `{name}` has no value in some row");
        Self::of(column)?.into_iter().map(|value| value.ok_or_else(null)).collect()
    }
}

impl Field for String {
    fn of(column: &Column) -> PolarsResult<Vec<Option<Self>>> {
        Ok(column.cast(&DataType::String)?.str()?.iter().map(|value| value.map(String::from)).collect())
    }
}

impl Field for i64 {
    fn of(column: &Column) -> PolarsResult<Vec<Option<Self>>> {
        Ok(column.cast(&DataType::Int64)?.i64()?.iter().collect())
    }
}

impl Field for f64 {
    fn of(column: &Column) -> PolarsResult<Vec<Option<Self>>> {
        Ok(column.cast(&DataType::Float64)?.f64()?.iter().collect())
    }
}

impl Field for bool {
    fn of(column: &Column) -> PolarsResult<Vec<Option<Self>>> {
        Ok(column.bool()?.iter().collect())
    }

    fn absent() -> Option<Self> {
        Some(true)
    }
}

impl<T: Field> Field for Option<T> {
    fn of(column: &Column) -> PolarsResult<Vec<Option<Self>>> {
        Ok(T::of(column)?.into_iter().map(Some).collect())
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

pub(super) use frame_rows;
