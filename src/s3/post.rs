//! A browser's form: authenticated by its fields, before its file is taken.
//!
//! s3s checks a form's signature, its policy and the file's length, but it also takes forms with a
//! SigV2 signature or with none, holds the whole file in memory before it asks who sent it,
//! keeps `${filename}` as it stands, and leaves some fields outside the policy. So the fields
//! are read here first: mechanism, scope, times, signature, policy and fields are checked, the
//! file name is put into the key, and a form with the same fields goes on to s3s, which then does
//! the rest: the file's length against `content-length-range` and against `post_form_max`, and
//! the answers that `success_action_*` ask for.
//!
//! # What holds
//!
//! Every field is covered by a condition of the policy (but those that S3 exempts), every
//! condition holds for the fields as they will be used, and the policy has not expired.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::header;
use ring::hmac;
use s3s::post_policy::PostPolicy;
use s3s::post_policy::PostPolicyCondition;

use crate::base::Clock;
use crate::base::Timestamp;
use crate::base::limits;
use crate::model::ObjectKey;
use crate::s3::auth::Keys;
use crate::s3::body_error::BodyFault;
use crate::s3::guard::body::GuardBody;
use crate::s3::guard::headers;
use crate::s3::guard::refusal::Refusal;
use crate::s3::guard::signing::Scope;
use crate::s3::guard::signing::amz_date;
use crate::s3::guard::signing::signature_mismatch;
use crate::s3::guard::signing::unhex;
use crate::s3::server::S3Settings;

/// Bytes of everything before the file.
const HEAD_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 100;
const BOUNDARY_MAX: usize = 70;

/// The form that a request carries: an extension of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostForm {
    /// With the file's name in it.
    pub(crate) key: ObjectKey,
    /// The id of the access key that signed it.
    pub(crate) signer: String,
}

/// What the fields of a form are held against.
pub(crate) struct Rules<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) settings: &'a S3Settings,
    pub(crate) clock: &'a Clock,
    pub(crate) keys: &'a dyn Keys,
}

/// The fields before the file, their names in lower case.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    fields: Vec<(String, String)>,
    filename: String,
    content_type: Option<String>,
    /// Where the file begins.
    file_at: usize,
}

/// Reads and checks the fields of a form. What is left of `body` is a form again, for s3s.
pub(crate) async fn admit<B>(
    headers: &HeaderMap,
    body: &mut GuardBody<B>,
    rules: Rules<'_>,
) -> Result<PostForm, Refusal>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let boundary = boundary(headers).ok_or_else(|| malformed("it has no boundary"))?;
    let mut start = Vec::new();
    // Read anew only when a good deal has come: who sends single bytes gets no work done for them.
    let mut again_at = 0;
    let mut head = loop {
        let full = start.len() > HEAD_MAX;
        if start.len() >= again_at || full {
            if let Some(head) = parse(&start, &boundary)? {
                break head;
            }
            again_at = start.len() + start.len() / 4;
        }
        if full {
            return Err(Refusal::bad(
                "MaxPostPreDataLengthExceeded",
                "Your POST request fields preceding the upload file were too large.",
            ));
        }
        match body.next().await {
            Some(Ok(bytes)) => start.extend_from_slice(&bytes),
            Some(Err(BodyFault::Stalled)) => return Err(Refusal::of_fault(BodyFault::Stalled)),
            Some(Err(_)) => return Err(malformed("it ends before its file")),
            None => {
                let head = parse(&start, &boundary)?;
                break head.ok_or_else(|| malformed("it ends before its file"))?;
            }
        }
    };
    let (key, signer) = check(&mut head, &rules)?;
    let mut again = render(&head, &boundary).into_bytes();
    again.extend_from_slice(&start[head.file_at..]);
    body.push_front(Bytes::from(again));
    Ok(PostForm { key, signer })
}

fn boundary(headers: &HeaderMap) -> Option<String> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let value = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    ((1..=BOUNDARY_MAX).contains(&value.len()) && value.bytes().all(plain))
        .then(|| value.to_owned())
}

/// The fields, if they are there up to the file; `None` when more is needed.
fn parse(form: &[u8], boundary: &str) -> Result<Option<Head>, Refusal> {
    let delimiter = format!("\r\n--{boundary}");
    let first = &delimiter.as_bytes()[2..];
    let mut at = if form.starts_with(b"\r\n") { 2 } else { 0 };
    if form.len() < at + first.len() + 2 {
        return Ok(None);
    }
    if !form[at..].starts_with(first) || &form[at + first.len()..][..2] != b"\r\n" {
        return Err(malformed("it does not begin with its boundary"));
    }
    at += first.len() + 2;
    let mut head = Head::default();
    loop {
        let Some(end) = find(&form[at..], b"\r\n\r\n") else { return Ok(None) };
        let part = part_head(&form[at..at + end]).ok_or_else(|| malformed("a part is"))?;
        at += end + 4;
        if part.name == "file" {
            head.filename = part.filename.unwrap_or_default();
            head.content_type = part.content_type;
            head.file_at = at;
            return Ok(Some(head));
        }
        let Some(end) = find(&form[at..], delimiter.as_bytes()) else { return Ok(None) };
        let value = std::str::from_utf8(&form[at..at + end]);
        let value = value.map_err(|_| malformed("a field is no UTF-8"))?.to_owned();
        // s3s finds a boundary without a line's end before it, and so parts that are none here.
        if value.contains(&delimiter[2..]) {
            return Err(malformed("a field has the boundary in it"));
        }
        at += end + delimiter.len();
        let Some(next) = form.get(at..at + 2) else { return Ok(None) };
        if next != b"\r\n" {
            return Err(Refusal::invalid_argument(
                "file",
                "POST requires exactly one file upload per request.",
            ));
        }
        at += 2;
        if head.fields.len() == FIELDS_MAX || head.fields.iter().any(|(name, _)| *name == part.name)
        {
            return Err(malformed("a field is given twice, or there are too many"));
        }
        head.fields.push((part.name, value));
    }
}

struct PartHead {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
}

fn part_head(lines: &[u8]) -> Option<PartHead> {
    let lines = std::str::from_utf8(lines).ok()?;
    let mut head = PartHead { name: String::new(), filename: None, content_type: None };
    for line in lines.split("\r\n") {
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-type") {
            head.content_type = Some(value.to_owned());
        }
        if name.eq_ignore_ascii_case("content-disposition") {
            head.name = quoted(value, "name")?.to_ascii_lowercase();
            head.filename = quoted(value, "filename");
        }
    }
    // It will be a header line of the form that s3s reads.
    if head.content_type.as_ref().is_some_and(|text| text.chars().any(char::is_control)) {
        return None;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (!head.name.is_empty() && head.name.bytes().all(plain)).then_some(head)
}

/// The quoted value of a parameter of `Content-Disposition`.
fn quoted(disposition: &str, name: &str) -> Option<String> {
    let mut rest = disposition;
    loop {
        let (_, parameters) = rest.split_once(';')?;
        let (found, value) = parameters.split_once('=')?;
        let value = value.trim_start().strip_prefix('"')?;
        let mut end = 0;
        let mut text = String::new();
        let mut escaped = false;
        for c in value.chars() {
            end += c.len_utf8();
            match c {
                '\\' if !escaped && value[end..].starts_with('"') => escaped = true,
                '"' if !escaped => break,
                c => {
                    text.push(c);
                    escaped = false;
                }
            }
        }
        if found.trim() == name {
            return Some(text);
        }
        rest = &value[end..];
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Checks everything about the fields, and puts the file's name into the key. Gives that, and who
/// signed.
fn check(head: &mut Head, rules: &Rules<'_>) -> Result<(ObjectKey, String), Refusal> {
    let get = |head: &Head, name: &str| {
        head.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone())
    };
    if get(head, "signature").is_some() || get(head, "awsaccesskeyid").is_some() {
        return Err(Refusal::sigv2());
    }
    if get(head, "policy").is_none() && get(head, "x-amz-signature").is_none() {
        return Err(Refusal::denied("Access Denied"));
    }
    let need = |head: &Head, name: &'static str| {
        get(head, name).ok_or_else(|| {
            Refusal::invalid_argument(
                name,
                format!("Bucket POST must contain a field named '{name}'."),
            )
        })
    };
    let policy_text = need(head, "policy")?;
    let signer = authenticate(
        &policy_text,
        &need(head, "x-amz-algorithm")?,
        &need(head, "x-amz-credential")?,
        &need(head, "x-amz-date")?,
        &need(head, "x-amz-signature")?,
        rules,
    )?;
    let filename = head.filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    for (name, value) in &mut head.fields {
        if name == "key" {
            *value = value.replace("${filename}", &filename);
        }
    }
    let key = need(head, "key")?;
    check_policy(&policy_text, head, rules)?;
    for (name, value) in &head.fields {
        if name == "acl" {
            headers::check_one("x-amz-acl", value)?;
        } else if name.starts_with("x-amz-") {
            headers::check_one(name, value)?;
        }
    }
    if key.contains('\0') {
        return Err(Refusal::bad_uri());
    }
    match ObjectKey::new(key) {
        Ok(key) => Ok((key, signer)),
        Err(crate::model::key::KeyError::TooLong) => {
            Err(Refusal::bad("KeyTooLongError", "Your key is too long."))
        }
        Err(crate::model::key::KeyError::Empty) => {
            Err(Refusal::invalid_argument("key", "User key must have a length greater than 0."))
        }
    }
}

fn authenticate(
    policy: &str,
    algorithm: &str,
    credential: &str,
    date: &str,
    signature: &str,
    rules: &Rules<'_>,
) -> Result<String, Refusal> {
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(Refusal::invalid_argument(
            "x-amz-algorithm",
            "x-amz-algorithm only supports \"AWS4-HMAC-SHA256\"",
        ));
    }
    let wrong_scope = |why: String| Refusal::invalid_argument("x-amz-credential", why);
    let scope = Scope::parse(credential)
        .ok_or_else(|| wrong_scope("the Credential is mal-formed".into()))?;
    let moment = amz_date(date)
        .ok_or_else(|| Refusal::invalid_argument("x-amz-date", "x-amz-date is no date."))?;
    if let Some(fault) = scope.fault(date, &rules.settings.region) {
        return Err(wrong_scope(fault));
    }
    let now = rules.clock.now();
    if moment.since(now) > limits::CLOCK_SKEW_MAX {
        return Err(Refusal::denied("Request is not yet valid"));
    }
    if now.since(moment) > limits::PRESIGNED_MAX {
        return Err(Refusal::denied("Request has expired"));
    }
    let key = rules.keys.key(scope.key).ok_or_else(|| {
        Refusal::new(
            http::StatusCode::FORBIDDEN,
            "InvalidAccessKeyId",
            "The AWS access key ID you provided does not exist in our records.",
        )
    })?;
    let key = scope.signing_key(&key.secret);
    let given = unhex(signature);
    if given.is_none_or(|given| hmac::verify(&key, policy.as_bytes(), &given).is_err()) {
        return Err(signature_mismatch());
    }
    Ok(scope.key.to_owned())
}

fn check_policy(text: &str, head: &Head, rules: &Rules<'_>) -> Result<(), Refusal> {
    let policy = PostPolicy::from_base64(text)
        .map_err(|err| Refusal::bad("InvalidPolicyDocument", format!("Invalid Policy: {err}")))?;
    let expires = expiration(text).ok_or_else(|| {
        Refusal::bad("InvalidPolicyDocument", "Invalid Policy: Invalid 'expiration' value")
    })?;
    if rules.clock.now() >= expires {
        return Err(Refusal::denied("Invalid according to Policy: Policy expired."));
    }
    let value = |field: &str| match field {
        "bucket" => Some(rules.bucket),
        _ => head.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_str()),
    };
    for condition in &policy.conditions {
        let (holds, field) = match condition {
            PostPolicyCondition::Eq { field, value: wanted } => {
                (value(field) == Some(wanted.as_str()), field)
            }
            PostPolicyCondition::StartsWith { field, prefix } => {
                (value(field).unwrap_or_default().starts_with(prefix.as_str()), field)
            }
            // s3s counts the file.
            PostPolicyCondition::ContentLengthRange { .. } => continue,
        };
        if !holds {
            return Err(Refusal::denied(format!(
                "Invalid according to Policy: Policy Condition failed: \"${field}\""
            )));
        }
    }
    let covered = |name: &str| {
        policy.conditions.iter().any(|condition| match condition {
            PostPolicyCondition::Eq { field, .. }
            | PostPolicyCondition::StartsWith { field, .. } => field == name,
            PostPolicyCondition::ContentLengthRange { .. } => false,
        })
    };
    let exempt = ["x-amz-signature", "policy", "file", "submit"];
    for (name, _) in &head.fields {
        if !exempt.contains(&name.as_str()) && !name.starts_with("x-ignore-") && !covered(name) {
            return Err(Refusal::denied(format!(
                "Invalid according to Policy: Extra input fields: {name}"
            )));
        }
    }
    if value("bucket").is_some_and(|bucket| bucket != rules.bucket) {
        return Err(Refusal::denied("Invalid according to Policy: another bucket"));
    }
    Ok(())
}

fn expiration(policy: &str) -> Option<Timestamp> {
    let policy: serde_json::Value = serde_json::from_slice(&STANDARD.decode(policy).ok()?).ok()?;
    let text = policy.get("expiration")?.as_str()?;
    let format = &time::format_description::well_known::Rfc3339;
    let moment = time::OffsetDateTime::parse(text, format).ok()?;
    Some(Timestamp(i64::try_from(moment.unix_timestamp_nanos() / 1000).ok()?))
}

/// The fields as a form, up to where the file begins.
fn render(head: &Head, boundary: &str) -> String {
    let mut form = String::new();
    for (name, value) in &head.fields {
        form.push_str(&format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        ));
    }
    form.push_str(&format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n"
    ));
    if let Some(content_type) = &head.content_type {
        form.push_str(&format!("Content-Type: {content_type}\r\n"));
    }
    form.push_str("\r\n");
    form
}

fn malformed(why: &str) -> Refusal {
    let message =
        format!("The body of your POST request is not well-formed multipart/form-data: {why}.");
    Refusal::bad("MalformedPOSTRequest", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--xx\r\nContent-Disposition: form-data; name=\"Key\"\r\n\r\nin/${filename}\
        \r\n--xx\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--xx\r\n\
        Content-Disposition: form-data; name=\"file\"; filename=\"C:\\dir\\a \\\"b\\\".txt\"\r\n\
        Content-Type: text/plain\r\n\r\nhello\r\n--xx--\r\n";

    #[test]
    fn fields_are_read_up_to_the_file_wherever_the_bytes_are_cut() {
        let head = parse(FORM.as_bytes(), "xx").unwrap().unwrap();
        assert_eq!(head.fields[0], ("key".to_owned(), "in/${filename}".to_owned()));
        assert_eq!(head.fields[1], ("empty".to_owned(), String::new()));
        assert_eq!(head.filename, "C:\\dir\\a \"b\".txt");
        assert_eq!(head.content_type.as_deref(), Some("text/plain"));
        assert!(FORM[head.file_at..].starts_with("hello"));
        for cut in 0..head.file_at {
            assert_eq!(parse(&FORM.as_bytes()[..cut], "xx").unwrap(), None, "{cut}");
        }
        // What goes on to s3s has the same fields.
        let again = render(&head, "xx");
        let twice = parse(again.as_bytes(), "xx").unwrap().unwrap();
        assert_eq!(twice.fields, head.fields);
        assert_eq!(twice.file_at, again.len());
    }

    #[test]
    fn a_form_without_a_file_or_with_a_field_twice_is_none() {
        let field = "Content-Disposition: form-data; name=\"a\"\r\n\r\nb";
        for wrong in [
            format!("--xx\r\n{field}\r\n--xx--\r\n"),
            format!("--xx\r\n{field}\r\n--xx\r\n{field}\r\n--xx\r\n"),
            format!("--yy\r\n{field}\r\n"),
            "--xx\r\nContent-Type: x\r\n\r\n".to_owned(),
            "--xx\r\nContent-Disposition: form-data; name=\"a\\\"\r\nX: \"\r\n\r\n".to_owned(),
        ] {
            assert!(parse(wrong.as_bytes(), "xx").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_boundary_is_taken_from_its_header_alone() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            boundary(&headers)
        };
        assert_eq!(of("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(of("multipart/form-data; Boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(of("multipart/form-data"), None);
        assert_eq!(of("multipart/form-data; boundary="), None);
    }
}
