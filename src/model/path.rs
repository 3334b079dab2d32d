//! Where the bytes of a replica lie on its backend.
//!
//! Readable: `<bucket>/<key>~<part>.<piece>~<write id>[.<ext>]`. Opaque: `_/<xx>/<yy>/<write id>`,
//! `xx` and `yy` being the last and the next to last pair of characters of the id, which are the
//! ones that differ between ids made together. The extension is the key's own, so that an owner
//! who looks at a disk can open what is there; it is read off the stem and kept nowhere else.
//!
//! # The encoding of keys
//!
//! A key is cut at its slashes, and each piece becomes one component. Letters and digits of every
//! script and a few harmless signs stay, every other character becomes the `%XX` of its UTF-8
//! bytes. So does a space at either end, a dot at the end, and the dot of a leading `.larder`.
//! An empty piece becomes a lone `%`. A piece that grows longer than [`CHUNK_MAX`] goes on in the
//! next component, and the one before ends in `%+`.
//!
//! # Invariants
//!
//! - Two stems are equal only if bucket, key, part and piece are: decoding is a function.
//! - Every component is legal on any file system: not empty, no `.` or `..`, no byte that a file
//!   system or a URL takes for something else.
//! - Directories hold no `~` and files always do, so `a` and `a/b` never contend for one name.

use super::bucket::BucketName;
use super::id::WriteId;
use super::key::ObjectKey;
use crate::base::ids;

/// Encoded bytes of one component, before the marker that it goes on.
const CHUNK_MAX: usize = 180;
/// Signs that mean nothing to any file system, URL or query language that we know.
const PLAIN_SIGNS: &str = "-_.!&()+,=@[] ";
/// An extension is worth keeping up to this many characters.
const EXT_MAX: usize = 8;
/// The first component of every marker and temporary file.
const RESERVED: &str = ".larder";
/// The directory of the opaque form; no bucket can have this name.
const OPAQUE_DIR: &str = "_";

/// How a replica's path is made; [`PathForm::Own`] is the name that an imported one came with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathForm {
    Readable,
    Opaque,
    Own(String),
}

/// What one service can take as a path. Lengths are bytes, after encoding, root not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathLimits {
    pub component_max: usize,
    pub total_max: usize,
}

/// The readable part of a path that is common to all replicas of a blob: where it was born.
pub fn stem(bucket: &BucketName, key: &ObjectKey, part: u32, piece: u32) -> String {
    let mut stem = String::with_capacity(bucket.as_str().len() + key.as_bytes().len() + 8);
    stem.push_str(bucket.as_str());
    for component in key.as_str().split('/') {
        stem.push('/');
        encode_into(&mut stem, component);
    }
    stem.push_str(&format!("~{part}.{piece}"));
    stem
}

/// The path of a replica.
pub fn path(form: &PathForm, stem: &str, write: WriteId) -> String {
    match form {
        PathForm::Readable => match extension(stem) {
            Some(ext) => format!("{stem}~{write}.{ext}"),
            None => format!("{stem}~{write}"),
        },
        PathForm::Opaque => {
            let id = write.to_string();
            let (first, last) =
                (&id[ids::TEXT_LEN - 4..ids::TEXT_LEN - 2], &id[ids::TEXT_LEN - 2..]);
            format!("{OPAQUE_DIR}/{last}/{first}/{id}")
        }
        PathForm::Own(path) => path.clone(),
    }
}

/// Whether the readable form of `stem` keeps to `limits`; if not, [`PathForm::Opaque`] is taken.
pub fn fits(stem: &str, limits: &PathLimits) -> bool {
    let suffix = 1 + ids::TEXT_LEN + extension(stem).map_or(0, |ext| 1 + ext.len());
    let last = stem.rsplit('/').next().map_or(0, str::len);
    stem.len() + suffix <= limits.total_max
        && last + suffix <= limits.component_max
        && stem.split('/').all(|component| component.len() <= limits.component_max)
}

/// The write id of a path of Larder's own form, by its end alone.
pub fn write_id(path: &str) -> Option<WriteId> {
    let (stem, tail) = match path.rsplit_once('~') {
        Some((stem, tail)) => (stem, tail),
        None => {
            let write = WriteId::from_text(path.rsplit('/').next()?)?;
            let own = self::path(&PathForm::Opaque, "", write);
            return (own == path).then_some(write);
        }
    };
    let write = WriteId::from_text(tail.get(..ids::TEXT_LEN)?)?;
    let (name, number) = stem.rsplit('/').next()?.rsplit_once('~')?;
    let (part, piece) = number.split_once('.')?;
    let counted = |text: &str| text.parse::<u32>().is_ok_and(|n| n.to_string() == text);
    let own = stem.contains('/') && !name.is_empty() && counted(part) && counted(piece);
    (own && self::path(&PathForm::Readable, stem, write) == path).then_some(write)
}

/// The extension that the key of `stem` ends in, if it has one worth keeping.
fn extension(stem: &str) -> Option<&str> {
    let (name, _) = stem.rsplit('/').next()?.rsplit_once('~')?;
    let (base, ext) = name.rsplit_once('.')?;
    let short = (1..=EXT_MAX).contains(&ext.len());
    (!base.is_empty() && short && ext.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(ext)
}

/// Appends one piece of a key as one or more components.
fn encode_into(out: &mut String, component: &str) {
    if component.is_empty() {
        return out.push('%');
    }
    let mut chunk = out.len();
    for (at, c) in component.char_indices() {
        let rest = &component[at..];
        let last = rest.len() == c.len_utf8();
        let mut unit = encoded(c, is_plain(c, rest, out.len() == chunk, last));
        if out.len() - chunk + unit.len() > CHUNK_MAX {
            out.push_str("%+/");
            chunk = out.len();
            unit = encoded(c, is_plain(c, rest, true, last));
        }
        out.push_str(&unit);
    }
}

/// Whether `c`, with which `rest` begins, may stand for itself at this place of a component.
fn is_plain(c: char, rest: &str, first: bool, last: bool) -> bool {
    let reserved =
        || rest.get(..RESERVED.len()).is_some_and(|head| head.eq_ignore_ascii_case(RESERVED));
    match c {
        ' ' => !first && !last,
        '.' => !(last || first && reserved()),
        c if c.is_ascii() => c.is_ascii_alphanumeric() || PLAIN_SIGNS.contains(c),
        c => c.is_alphanumeric(),
    }
}

fn encoded(c: char, plain: bool) -> String {
    let mut buffer = [0; 4];
    let utf8 = c.encode_utf8(&mut buffer);
    match plain {
        true => utf8.to_owned(),
        false => utf8.bytes().map(|byte| format!("%{byte:02X}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn bucket() -> BucketName {
        BucketName::new("photos").unwrap()
    }

    fn stem_of(text: &str) -> String {
        stem(&bucket(), &key(text), 0, 0)
    }

    /// The key, part and piece of a stem: what the encoding promises can be done.
    fn decode(stem: &str) -> (String, u32, u32) {
        let (path, number) = stem.rsplit_once('~').unwrap();
        let (part, piece) = number.split_once('.').unwrap();
        let mut key = String::new();
        // The first component follows the bucket's slash, not one of the key's.
        let mut goes_on = true;
        for component in path.split('/').skip(1) {
            if !goes_on {
                key.push('/');
            }
            goes_on = component.ends_with("%+");
            let component = component.strip_suffix("%+").unwrap_or(component);
            if component != "%" {
                let decoded = percent_encoding::percent_decode_str(component);
                key.push_str(&decoded.decode_utf8().unwrap());
            }
        }
        (key, part.parse().unwrap(), piece.parse().unwrap())
    }

    fn is_legal(component: &str) -> bool {
        !component.is_empty()
            && !component.starts_with(' ')
            && !component.ends_with([' ', '.'])
            && !component.to_ascii_lowercase().starts_with(RESERVED)
            && component.len() <= 255
            && !component.chars().any(|c| c.is_control() || "<>:\"|?*\\#'`".contains(c))
    }

    #[test]
    fn ordinary_keys_stay_as_they_are() {
        assert_eq!(stem_of("2024/summer (1).jpg"), "photos/2024/summer (1).jpg~0.0");
        assert_eq!(stem(&bucket(), &key("é.txt"), 7, 2), "photos/é.txt~7.2");
    }

    #[test]
    fn awkward_keys_are_escaped() {
        for (text, expected) in [
            ("a/", "photos/a/%~0.0"),
            ("/", "photos/%/%~0.0"),
            ("a//b", "photos/a/%/b~0.0"),
            (".", "photos/%2E~0.0"),
            ("../x", "photos/.%2E/x~0.0"),
            ("a~b%c#d", "photos/a%7Eb%25c%23d~0.0"),
            (" a ", "photos/%20a%20~0.0"),
            (".larder/x", "photos/%2Elarder/x~0.0"),
            (".Larder", "photos/%2ELarder~0.0"),
            (".env", "photos/.env~0.0"),
            ("a\0b", "photos/a%00b~0.0"),
            ("☃", "photos/%E2%98%83~0.0"),
        ] {
            assert_eq!(stem_of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_components_go_on_in_the_next() {
        let stem = stem_of(&"a".repeat(400));
        let parts: Vec<&str> = stem.split('/').skip(1).collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0], format!("{}%+", "a".repeat(CHUNK_MAX)));
        assert_eq!(parts[2], format!("{}~0.0", "a".repeat(40)));
    }

    #[test]
    fn paths_end_in_the_write_id_and_the_extension() {
        let write = WriteId(0x0123_4567_89ab_cdef);
        let id = write.to_string();
        let readable = |text: &str| path(&PathForm::Readable, &stem_of(text), write);
        assert_eq!(readable("a.jpg"), format!("photos/a.jpg~0.0~{id}.jpg"));
        for none in ["a", ".env", "a.", "a.toolongext", "a.b c", "a.jpg/"] {
            assert!(readable(none).ends_with(&id), "{none}");
        }
        let opaque = path(&PathForm::Opaque, "", write);
        assert_eq!(opaque, format!("_/{}/{}/{id}", &id[11..], &id[9..11]));
        let own = PathForm::Own("as/it came".into());
        assert_eq!(path(&own, "", write), "as/it came");
    }

    #[test]
    fn the_suffix_counts_against_the_limits() {
        let stem = stem_of("a.jpg");
        let whole = path(&PathForm::Readable, &stem, WriteId(1));
        let last = whole.rsplit('/').next().unwrap().len();
        let limits = |component_max, total_max| PathLimits { component_max, total_max };
        assert!(fits(&stem, &limits(last, whole.len())));
        assert!(!fits(&stem, &limits(last - 1, whole.len())));
        assert!(!fits(&stem, &limits(last, whole.len() - 1)));
        assert!(!fits(&stem_of(&format!("{}/a", "b".repeat(100))), &limits(90, 4096)));
    }

    #[test]
    fn only_own_forms_have_a_write_id() {
        let id = WriteId(77).to_string();
        let wrong_dirs = format!("_/00/00/{id}");
        for foreign in [
            "",
            "a/b",
            &id,
            &format!("a/{id}"),
            &wrong_dirs,
            &format!("a~0.0~{id}"),
            &format!("b/~0.0~{id}"),
            &format!("b/a~00.0~{id}"),
            &format!("b/a~0~{id}"),
            &format!("b/a~0.0~{id}.jpg"),
            &format!("b/a.jpg~0.0~{id}"),
            &format!("b/a~0.0~{id}x"),
            "b/a~0.0~ééééééé",
        ] {
            assert_eq!(write_id(foreign), None, "{foreign}");
        }
    }

    /// Keys of characters that are trouble somewhere, sometimes long.
    fn nasty() -> impl Strategy<Value = String> {
        let chars = prop::sample::select(
            "/./. ~%+#aA.larder\0\n\\:?*\"<>|'éß☃e\u{301}日\u{1F600}7-_"
                .chars()
                .collect::<Vec<_>>(),
        );
        let run = (chars, prop_oneof![9 => 1usize..3, 1 => 150usize..190])
            .prop_map(|(c, n)| c.to_string().repeat(n));
        prop::collection::vec(run, 1..14).prop_map(|runs| {
            let mut text = runs.concat();
            while text.len() > 1024 {
                text.pop();
            }
            text
        })
    }

    proptest! {
        #[test]
        fn stems_are_read_back_and_legal(text in nasty(), part in 0u32..=10_000, piece in 0u32..9999) {
            let stem = stem(&bucket(), &key(&text), part, piece);
            prop_assert_eq!(decode(&stem), (text, part, piece));
            let whole = path(&PathForm::Readable, &stem, WriteId(i64::MAX as u64));
            for component in whole.split('/') {
                prop_assert!(is_legal(component), "{:?}", component);
            }
            for directory in stem.rsplit_once('/').unwrap().0.split('/') {
                prop_assert!(!directory.contains('~'));
            }
        }

        #[test]
        fn write_ids_are_found_in_both_forms(text in nasty(), id in 0u64..=i64::MAX as u64) {
            let stem = stem_of(&text);
            for form in [PathForm::Readable, PathForm::Opaque] {
                prop_assert_eq!(write_id(&path(&form, &stem, WriteId(id))), Some(WriteId(id)));
            }
            prop_assert_eq!(write_id(&stem), None);
        }
    }
}
