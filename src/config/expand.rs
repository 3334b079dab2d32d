//! Values from outside the file: `${NAME}` from the environment, `..._file` from a file.
//!
//! Only values are expanded, after parsing: comments are left alone, and what a variable contains
//! is never read as TOML or expanded again.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Looks a variable of the environment up.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The most that a secret's file may hold.
const SECRET_FILE_MAX: u64 = 64 * 1024;

/// Why a value could not be expanded, with a hint.
#[derive(Debug)]
pub(crate) struct ExpandError {
    pub(crate) text: String,
    pub(crate) hint: String,
}

fn error<T>(text: String, hint: &str) -> Result<T, ExpandError> {
    Err(ExpandError { text, hint: hint.to_owned() })
}

/// `raw` with every `${NAME}` replaced, and `$$` by a dollar.
pub(crate) fn expand(raw: &str, env: Env<'_>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}'))
        else {
            return error(
                "a `$` here begins neither `${NAME}` nor `$$`".to_owned(),
                "write `$$` for a dollar, `${NAME}` for a variable of the environment",
            );
        };
        if !is_name(name) {
            return error(
                format!("`{name}` is not the name of a variable"),
                "a name has letters, digits and `_`, and does not begin with a digit",
            );
        }
        match env(name) {
            Some(value) => out.push_str(&value),
            None => {
                return error(
                    format!("the environment variable `{name}` is not set"),
                    "set it where larder is started, for instance in the unit's Environment=",
                );
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// The secret in the file at `path`, which is relative to `dir`, without a trailing newline.
pub(crate) fn read_secret(path: &str, dir: &Path) -> Result<String, ExpandError> {
    let path = dir.join(path);
    let shown = path.display();
    let mut bytes = Vec::new();
    let read =
        File::open(&path).and_then(|file| file.take(SECRET_FILE_MAX + 1).read_to_end(&mut bytes));
    if let Err(err) = read {
        return error(
            format!("`{shown}` cannot be read: {err}"),
            "it must exist and be readable by the user that larder runs as",
        );
    }
    if bytes.len() as u64 > SECRET_FILE_MAX {
        return error(format!("`{shown}` is too large for a secret"), "name another file");
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return error(format!("`{shown}` is not UTF-8 text"), "name another file");
    };
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return error(format!("`{shown}` is empty"), "write the secret into it");
    }
    Ok(secret.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "DOLLAR_1" => Some("${A}$".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once_and_dollars_kept_when_doubled() {
        let check = |raw, want: &str| {
            assert_eq!(expand(raw, &env).map_err(|err| err.text), Ok(want.to_owned()), "{raw}");
        };
        check("plain", "plain");
        check("x${A}y${A}", "xalphayalpha");
        check("${DOLLAR_1}", "${A}$");
        check("a$$b$$$$", "a$b$$");
        check("$${A}", "${A}");
        check("[${EMPTY}]", "[]");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (raw, why) in [
            ("${NOT_SET}", "not set"),
            ("pa$word", "neither"),
            ("${A", "neither"),
            ("$", "neither"),
            ("${}", "not the name"),
            ("${1A}", "not the name"),
            ("${A:-b}", "not the name"),
        ] {
            let err = expand(raw, &env).expect_err(raw);
            assert!(err.text.contains(why), "{raw}: {}", err.text);
        }
    }

    #[test]
    fn a_secret_loses_one_newline_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let check = |contents: &[u8], want: Result<&str, &str>| {
            std::fs::write(dir.path().join("s"), contents).unwrap();
            match (read_secret("s", dir.path()), want) {
                (Ok(secret), Ok(want)) => assert_eq!(secret, want),
                (Err(err), Err(why)) => assert!(err.text.contains(why), "{}", err.text),
                (got, want) => panic!("{:?} instead of {want:?}", got.map_err(|err| err.text)),
            }
        };
        check(b"abc", Ok("abc"));
        check(b" ab$c \n", Ok(" ab$c "));
        check(b"abc\r\n", Ok("abc"));
        check(b"abc\n\n", Ok("abc\n"));
        check(b"\n", Err("is empty"));
        check(b"\xff", Err("not UTF-8"));
        check(&vec![b'a'; SECRET_FILE_MAX as usize + 1], Err("too large"));
        assert!(read_secret("gone", dir.path()).is_err());
        assert!(read_secret(".", dir.path()).is_err());
    }
}
