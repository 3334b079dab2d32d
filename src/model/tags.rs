//! Tags of an object.

use crate::base::limits::{TAG_KEY_CHARS_MAX, TAG_VALUE_CHARS_MAX, TAGS_MAX};

/// At most ten tags with different keys, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<(String, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagsError {
    #[error("an object has at most {TAGS_MAX} tags")]
    TooMany,
    #[error(
        "a tag key has 1 to {TAG_KEY_CHARS_MAX} characters, letters, digits, spaces and + - = . _ : / @"
    )]
    Key,
    #[error(
        "a tag value has at most {TAG_VALUE_CHARS_MAX} characters, letters, digits, spaces and + - = . _ : / @"
    )]
    Value,
    #[error("a tag key is given once")]
    Twice,
}

impl Tags {
    pub fn new(pairs: Vec<(String, String)>) -> Result<Tags, TagsError> {
        if pairs.len() > TAGS_MAX {
            return Err(TagsError::TooMany);
        }
        for (i, (key, value)) in pairs.iter().enumerate() {
            let chars = key.chars().count();
            if chars == 0 || chars > TAG_KEY_CHARS_MAX || !key.chars().all(is_tag_char) {
                return Err(TagsError::Key);
            }
            if value.chars().count() > TAG_VALUE_CHARS_MAX || !value.chars().all(is_tag_char) {
                return Err(TagsError::Value);
            }
            if pairs[..i].iter().any(|(other, _)| other == key) {
                return Err(TagsError::Twice);
            }
        }
        Ok(Tags(pairs))
    }

    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_tag_char(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(pairs: &[(&str, &str)]) -> Result<Tags, TagsError> {
        Tags::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn each_rule_has_its_error() {
        assert!(tags(&[("a", ""), ("b", "x y")]).is_ok());
        assert_eq!(tags(&[("", "x")]), Err(TagsError::Key));
        assert_eq!(tags(&[("a", "x"), ("a", "y")]), Err(TagsError::Twice));
        assert_eq!(tags(&[("a", &"x".repeat(257))]), Err(TagsError::Value));
        assert_eq!(tags(&[("a", "<")]), Err(TagsError::Value));
        let many: Vec<_> = (0..11).map(|i| (i.to_string(), String::new())).collect();
        assert_eq!(Tags::new(many), Err(TagsError::TooMany));
    }
}
