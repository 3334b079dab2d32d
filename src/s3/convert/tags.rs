//! Tags, from the `x-amz-tagging` header and from XML.

use std::borrow::Cow;

use percent_encoding::percent_decode;
use s3s::dto::Tag;

use crate::model::Tags;
use crate::model::tags::TagsError;
use crate::s3::error::Refusal;

/// Reads `name=value&name=value` in the encoding of HTML forms.
pub(crate) fn from_header(text: &str) -> Result<Tags, Refusal> {
    let mut pairs = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((decode(name)?, decode(value)?));
    }
    Tags::new(pairs).map_err(wrong)
}

/// Reads a TagSet.
pub(crate) fn from_set(set: Vec<Tag>) -> Result<Tags, Refusal> {
    let mut pairs = Vec::with_capacity(set.len());
    for tag in set {
        let (Some(key), Some(value)) = (tag.key, tag.value) else {
            return Err(Refusal::MalformedXml);
        };
        pairs.push((key, value));
    }
    Tags::new(pairs).map_err(wrong)
}

pub(crate) fn to_set(tags: &Tags) -> Vec<Tag> {
    let tag = |(key, value): &(String, String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    tags.pairs().iter().map(tag).collect()
}

fn wrong(why: TagsError) -> Refusal {
    match why {
        TagsError::TooMany => Refusal::TooManyTags,
        why => Refusal::InvalidTag(why.to_string().into()),
    }
}

fn decode(text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).decode_utf8().map(Cow::into_owned).map_err(|_| {
        Refusal::InvalidArgument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query \
             parameters without tag name duplicates."
                .into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        from_header(text).unwrap().pairs().to_vec()
    }

    #[test]
    fn the_header_is_a_form() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(pairs("a=1&b=x%20y+z%2Bw"), [pair("a", "1"), pair("b", "x y z+w")]);
        assert_eq!(pairs("a=b=c"), [pair("a", "b=c")]);
        assert_eq!(pairs("a&%C3%A9="), [pair("a", ""), pair("é", "")]);
        assert!(pairs("").is_empty());
    }

    #[test]
    fn wrong_tags_are_refused() {
        for text in ["a=1&a=2", "=1", "a=%3C"] {
            assert!(matches!(from_header(text), Err(Refusal::InvalidTag(_))), "{text}");
        }
        assert!(matches!(from_header("a=%FF"), Err(Refusal::InvalidArgument(_))));
        let eleven: Vec<String> = (0..11).map(|i| format!("k{i}=v")).collect();
        assert_eq!(from_header(&eleven.join("&")), Err(Refusal::TooManyTags));
        let nameless = Tag { key: None, value: Some("x".into()) };
        assert_eq!(from_set(vec![nameless]), Err(Refusal::MalformedXml));
    }

    #[test]
    fn a_set_comes_back_as_it_went() {
        let tags = from_header("b=2&a=1").unwrap();
        assert_eq!(from_set(to_set(&tags)), Ok(tags));
    }
}
