//! The query of a request, decoded as s3s decodes it, but strictly.
//!
//! s3s replaces bytes that are no UTF-8, takes a doubled parameter for an absent one and leaves
//! a broken percent escape as it is. Here all three are refused, so that the guard and s3s never
//! read one query in two ways.

use percent_encoding::percent_decode_str;

use crate::s3::guard::refusal::Refusal;

/// The parameters in the order in which they came, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Result<Query, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(&name.replace('+', " ")).ok_or_else(Refusal::bad_uri)?;
            let value = decode(&value.replace('+', " ")).ok_or_else(Refusal::bad_uri)?;
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::invalid_argument(
                    name,
                    "A query parameter is given more than once.",
                ));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Decodes percent escapes; `None` for a broken one and for what is no UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        let hex = rest.get(at + 1..at + 3)?;
        if !hex.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_once_and_come_once() {
        let query = Query::parse(Some("a=b%2Bc+d&list-type=2&&uploads")).unwrap();
        assert_eq!(query.get("a"), Some("b+c d"));
        assert_eq!(query.get("uploads"), Some(""));
        assert!(query.has("list-type") && !query.has("b"));
        assert_eq!(Query::parse(None).unwrap(), Query::default());
        for (wrong, code) in [
            ("a=1&a=2", "InvalidArgument"),
            ("a=1&%61=2", "InvalidArgument"),
            ("a=%FF", "InvalidURI"),
            ("a=%zz", "InvalidURI"),
            ("a=%4", "InvalidURI"),
        ] {
            assert_eq!(Query::parse(Some(wrong)).unwrap_err().code, code, "{wrong}");
        }
    }
}
