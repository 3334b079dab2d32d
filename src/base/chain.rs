//! Errors for the log.

use std::error::Error;

/// An error with all its causes, in one line. Errors do not print their causes themselves.
pub fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text.push_str(": ");
        text.push_str(&err.to_string());
        cause = err.source();
    }
    text
}
