//! `never!`: what we believe cannot happen, and have a safe way out of.

/// True when `$cond` holds, which it never should: panics in tests, logs an error otherwise.
///
/// `if never!(a > b, "why it cannot be") { return the safe answer }`
#[macro_export]
macro_rules! never {
    ($cond:expr, $why:literal) => {{
        let happened = $cond;
        if happened {
            if cfg!(test) {
                panic!("never: {}", $why);
            }
            tracing::error!(why = $why, file = file!(), line = line!(), "an invariant is broken");
        }
        happened
    }};
}
