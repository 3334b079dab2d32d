//! Reads typed values out of parsed TOML, and notes every one that is not what it should be.
//!
//! A value that is wrong is noted and then treated as if it were not there, so that one mistake
//! hides no other. Whoever must tell the two apart asks [`Section::has`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::expand::Env;
use super::expand::ExpandError;
use super::expand::expand;
use super::expand::read_secret;
use super::finding::Findings;
use super::schema::Key;
use super::schema::homes;
use super::schema::nearest;
use crate::base::ByteSize;
use crate::base::size::parse_duration;

/// A value and the byte offset at which it stands.
#[derive(Clone, Debug)]
pub(crate) struct Spot<T> {
    pub(crate) value: T,
    pub(crate) at: usize,
}

/// A table whose names were checked against a schema; empty when it is not in the file.
pub(crate) struct Section<'t> {
    /// As messages call it: `[server]`.
    title: String,
    at: Option<usize>,
    table: Option<&'t DeTable<'t>>,
    schema: &'static [Key],
}

impl<'t> Section<'t> {
    pub(crate) fn at(&self) -> Option<usize> {
        self.at
    }

    /// Whether `key` is given, rightly or wrongly.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        let own = key.strip_suffix("_file").unwrap_or(key);
        debug_assert!(self.schema.iter().any(|known| known.name == own), "{key} has no schema");
        self.table?.get(key)
    }
}

/// Reads one file.
pub(crate) struct Reader<'a> {
    pub(crate) found: Findings,
    env: Env<'a>,
    /// Where relative paths begin.
    dir: &'a Path,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(env: Env<'a>, dir: &'a Path) -> Reader<'a> {
        Reader { found: Findings::default(), env, dir }
    }

    // ---- tables

    pub(crate) fn file<'t>(
        &mut self,
        table: &'t DeTable<'t>,
        schema: &'static [Key],
    ) -> Section<'t> {
        self.known(table, schema, "the file");
        Section { title: "the file".to_owned(), at: None, table: Some(table), schema }
    }

    /// The table `[key]` of `parent`.
    pub(crate) fn section<'t>(
        &mut self,
        parent: &Section<'t>,
        key: &str,
        schema: &'static [Key],
    ) -> Section<'t> {
        let title = match parent.title.starts_with('[') {
            true => format!("[{}.{key}]", parent.title.trim_matches(['[', ']'])),
            false => format!("[{key}]"),
        };
        let absent = Section { title: title.clone(), at: None, table: None, schema };
        let Some(value) = parent.value(key) else { return absent };
        let DeValue::Table(table) = value.get_ref() else {
            let text = format!("`{key}` is {}, it must be a table", kind(value.get_ref()));
            self.found.wrong_hint(value.span().start, text, format!("write {title}"));
            return absent;
        };
        self.known(table, schema, &title);
        Section { title, at: Some(value.span().start), table: Some(table), schema }
    }

    /// The tables `[[key]]` of `parent`, in their order.
    pub(crate) fn sections<'t>(
        &mut self,
        parent: &Section<'t>,
        key: &str,
        schema: &'static [Key],
    ) -> Vec<Section<'t>> {
        let title = format!("[[{key}]]");
        let Some(value) = parent.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let text = format!("`{key}` is {}, it must be a list of tables", kind(value.get_ref()));
            let hint = format!("write {title}, with two brackets, once for each");
            self.found.wrong_hint(value.span().start, text, hint);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            let at = item.span().start;
            match item.get_ref() {
                DeValue::Table(table) => {
                    self.known(table, schema, &title);
                    let table = Some(table);
                    sections.push(Section { title: title.clone(), at: Some(at), table, schema });
                }
                other => {
                    let text = format!("{} stands in {title}, only tables may", kind(other));
                    self.found.wrong(at, text);
                }
            }
        }
        sections
    }

    /// The tables `[key.NAME]` of `parent`, whatever their names.
    pub(crate) fn named_sections<'t>(
        &mut self,
        parent: &Section<'t>,
        key: &str,
        schema: &'static [Key],
    ) -> Vec<(String, Section<'t>)> {
        let Some(table) = self.table(parent, key) else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, value) in table.iter() {
            let title = format!("[{key}.{}]", name.get_ref());
            let at = value.span().start;
            match value.get_ref() {
                DeValue::Table(table) => {
                    self.known(table, schema, &title);
                    let section = Section { title, at: Some(at), table: Some(table), schema };
                    sections.push((name.get_ref().to_string(), section));
                }
                other => {
                    let name = name.get_ref();
                    let text = format!("`{name}` is {}, it must be a table", kind(other));
                    self.found.wrong_hint(at, text, format!("write {title}"));
                }
            }
        }
        sections
    }

    /// Notes the keys of `table` that `schema` does not know.
    fn known(&mut self, table: &DeTable<'_>, schema: &[Key], title: &str) {
        for (name, _) in table.iter() {
            let at = name.span().start;
            let name: &str = name.get_ref();
            let base = name.strip_suffix("_file");
            let is_it = |key: &Key| key.name == name || key.secret && base == Some(key.name);
            if !schema.iter().any(is_it) {
                let known = schema.iter().map(|key| key.name);
                let homes = homes(name);
                let hint = match nearest(name, known.clone()) {
                    _ if !homes.is_empty() => format!("it belongs to {}", homes.join(" or ")),
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
                };
                self.found.wrong_hint(at, format!("unknown key `{name}` in {title}"), hint);
            }
        }
    }

    // ---- values

    /// A string, expanded.
    pub(crate) fn text(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<String>> {
        let value = section.value(key)?;
        self.string(key, value)
    }

    /// Like [`Reader::text`], and notes when it is not there or empty.
    pub(crate) fn required(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<String>> {
        if !section.has(key) {
            let text = format!("{} has no `{key}`", section.title);
            self.found.wrong_hint(section.at, text, format!("add `{key} = \"...\"`"));
        }
        let text = self.text(section, key)?;
        if text.value.is_empty() {
            self.found.wrong(text.at, format!("`{key}` is empty"));
            return None;
        }
        Some(text)
    }

    /// A string given as `key`, or in the file that `<key>_file` names.
    pub(crate) fn secret(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<String>> {
        let file_key = format!("{key}_file");
        match (section.value(key), section.value(&file_key)) {
            (Some(_), Some(file)) => {
                self.twice(key, file.span());
                None
            }
            (Some(value), None) => self.string(key, value),
            (None, Some(file)) => self.secret_in_file(&file_key, file),
            (None, None) => None,
        }
    }

    /// A size; an empty string is as good as none.
    pub(crate) fn size(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<u64>> {
        let text = self.with_unit(section, key, ["GB", "GiB"])?;
        match text.value.parse::<ByteSize>() {
            Ok(size) => Some(Spot { value: size.0, at: text.at }),
            Err(why) => {
                self.found.wrong_hint(text.at, format!("`{key}`: {why}"), SIZE_FORMS);
                None
            }
        }
    }

    /// A duration; an empty string is as good as none.
    pub(crate) fn duration(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<Duration>> {
        let text = self.with_unit(section, key, ["s", "min"])?;
        match parse_duration(&text.value) {
            Ok(duration) => Some(Spot { value: duration, at: text.at }),
            Err(why) => {
                self.found.wrong_hint(text.at, format!("`{key}`: {why}"), DURATION_FORMS);
                None
            }
        }
    }

    pub(crate) fn number(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<u32>> {
        let value = section.value(key)?;
        let at = value.span().start;
        let DeValue::Integer(number) = value.get_ref() else {
            self.mistyped(key, value, "a whole number");
            return None;
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) => Some(Spot { value, at }),
            Err(_) => {
                let most = u32::MAX;
                self.found.wrong(at, format!("`{key}` is {number}, it can be 0 to {most}"));
                None
            }
        }
    }

    /// A number that need not be whole.
    pub(crate) fn real(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<f64>> {
        let value = section.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64)
            }
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Some(Spot { value: number, at: value.span().start }),
            None => {
                self.mistyped(key, value, "a plain number, such as 0.5");
                None
            }
        }
    }

    /// A table of names and whole numbers.
    pub(crate) fn counts(
        &mut self,
        section: &Section<'_>,
        key: &str,
    ) -> BTreeMap<String, Spot<u64>> {
        let Some(value) = section.value(key) else { return BTreeMap::new() };
        let DeValue::Table(table) = value.get_ref() else {
            self.mistyped(
                key,
                value,
                "a table, such as { all = 50000 } or { a = 20000, b = 30000 }",
            );
            return BTreeMap::new();
        };
        let mut counts = BTreeMap::new();
        for (name, value) in table.iter() {
            let count = match value.get_ref() {
                DeValue::Integer(number) => {
                    u64::from_str_radix(number.as_str(), number.radix()).ok()
                }
                _ => None,
            };
            let (name, at): (&str, usize) = (name.get_ref(), value.span().start);
            match count {
                Some(value) => _ = counts.insert(name.to_owned(), Spot { value, at }),
                None => self.mistyped(name, value, "a whole number of 0 or more"),
            }
        }
        counts
    }

    pub(crate) fn flag(&mut self, section: &Section<'_>, key: &str) -> Option<Spot<bool>> {
        let value = section.value(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(Spot { value: *flag, at: value.span().start }),
            _ => {
                self.mistyped(key, value, "true or false");
                None
            }
        }
    }

    pub(crate) fn list(
        &mut self,
        section: &Section<'_>,
        key: &str,
    ) -> Option<Spot<Vec<Spot<String>>>> {
        let value = section.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.mistyped(key, value, "a list of strings, such as [\"a\", \"b\"]");
            return None;
        };
        let texts = items.iter().filter_map(|item| self.string(key, item)).collect();
        Some(Spot { value: texts, at: value.span().start })
    }

    /// A table of names and strings.
    pub(crate) fn texts(
        &mut self,
        section: &Section<'_>,
        key: &str,
    ) -> BTreeMap<String, Spot<String>> {
        let Some(table) = self.table(section, key) else { return BTreeMap::new() };
        let mut texts = BTreeMap::new();
        for (name, value) in table.iter() {
            if let Some(text) = self.string(name.get_ref(), value) {
                texts.insert(name.get_ref().to_string(), text);
            }
        }
        texts
    }

    /// A table of names and strings, numbers or booleans, all given back as text. A name that
    /// ends in `_file` gives the contents of the file under the name without it. Beside them all
    /// names that are given, also those whose values are wrong.
    pub(crate) fn options(
        &mut self,
        section: &Section<'_>,
        key: &str,
    ) -> (BTreeMap<String, Spot<String>>, Vec<String>) {
        let (mut options, mut names) = (BTreeMap::new(), Vec::new());
        let Some(table) = self.table(section, key) else { return (options, names) };
        for (name, value) in table.iter() {
            let name: &str = name.get_ref();
            names.push(name.strip_suffix("_file").unwrap_or(name).to_owned());
            let at = value.span().start;
            let read = match (name.strip_suffix("_file"), value.get_ref()) {
                (Some(base), _) if table.contains_key(base) => {
                    self.twice(base, value.span());
                    None
                }
                (Some(base), _) => {
                    self.secret_in_file(name, value).map(|secret| (base.to_owned(), secret))
                }
                (None, DeValue::Boolean(flag)) => {
                    Some((name.to_owned(), Spot { value: flag.to_string(), at }))
                }
                (None, DeValue::Integer(number)) => {
                    Some((name.to_owned(), Spot { value: number.to_string(), at }))
                }
                (None, _) => self.string(name, value).map(|text| (name.to_owned(), text)),
            };
            options.extend(read);
        }
        (options, names)
    }

    // ---- helpers

    fn table<'t>(&mut self, section: &Section<'t>, key: &str) -> Option<&'t DeTable<'t>> {
        let value = section.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.mistyped(key, value, "a table, such as { name = \"value\" }");
                None
            }
        }
    }

    fn string(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Spot<String>> {
        let DeValue::String(raw) = value.get_ref() else {
            self.mistyped(key, value, "a string, in quotes");
            return None;
        };
        let at = value.span().start;
        let expanded = expand(raw, self.env);
        self.noting(key, at, expanded)
    }

    fn secret_in_file(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Spot<String>> {
        let path = self.string(key, value)?;
        let secret = read_secret(&path.value, self.dir);
        self.noting(key, path.at, secret)
    }

    fn noting(
        &mut self,
        key: &str,
        at: usize,
        result: Result<String, ExpandError>,
    ) -> Option<Spot<String>> {
        match result {
            Ok(value) => Some(Spot { value, at }),
            Err(err) => {
                self.found.wrong_hint(at, format!("`{key}`: {}", err.text), err.hint);
                None
            }
        }
    }

    /// A string that is not empty; a bare number is answered with the two ways it could be meant.
    fn with_unit(
        &mut self,
        section: &Section<'_>,
        key: &str,
        units: [&str; 2],
    ) -> Option<Spot<String>> {
        let value = section.value(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => {
                let text = self.string(key, value)?;
                let bare = !text.value.is_empty()
                    && text.value.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.');
                if !bare {
                    return Some(text).filter(|text| !text.value.is_empty());
                }
                text.value.trim().to_owned()
            }
        };
        self.found.wrong_hint(
            value.span().start,
            format!("`{key}` is a number without a unit"),
            format!("write \"{number} {}\" or \"{number} {}\"", units[0], units[1]),
        );
        None
    }

    fn mistyped(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let text = format!("`{key}` is {}, it must be {wanted}", kind(value.get_ref()));
        self.found.wrong(value.span().start, text);
    }

    fn twice(&mut self, key: &str, span: Range<usize>) {
        let text = format!("`{key}` and `{key}_file` are both given");
        self.found.wrong_hint(span.start, text, "keep one of them");
    }
}

const SIZE_FORMS: &str = "\"500 GB\" is 500 * 10^9 bytes, \"500 GiB\" is 500 * 2^30";
const DURATION_FORMS: &str = "units are us, ms, s, min, h and d: \"90 s\", \"5 min\"";

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
