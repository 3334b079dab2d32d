//! Recomputing every derived number, and holding every rule of the schema against the rows.
//!
//! Each check is a query for rows that should not be there, on a connection of its own.
//!
//! # Why there is no common snapshot
//!
//! While a snapshot is held the write-ahead log is not emptied, and a log that is full stops all
//! writes. A check is one statement, which sees one snapshot and needs no other's.

use super::Store;
use super::codec;
use super::error::StoreError;
use super::placement::default_in_tx;
use super::sql::Sql;

/// Rows of one check that are told in words; the rest are counted.
const SHOWN_MAX: usize = 5;

/// What is wrong, and the query that finds where: one text each.
const CHECKS: &[(&str, &str)] = &[
    (
        "a backend's used bytes are not those of its replicas",
        "SELECT k.name || ': ' || k.used || ', should be ' || coalesce(x.sum, 0) FROM backends k
         LEFT JOIN (SELECT r.backend AS no, sum(coalesce(r.bytes, b.size)) AS sum
             FROM replicas r JOIN blobs b ON b.id = r.blob WHERE r.state <> 0 GROUP BY 1) x
         ON x.no = k.no WHERE k.used <> coalesce(x.sum, 0)",
    ),
    (
        "a backend's reserved bytes are not those of its intents",
        "SELECT k.name || ': ' || k.reserved || ', should be ' || coalesce(x.sum, 0) FROM backends k
         LEFT JOIN (SELECT r.backend AS no, sum(coalesce(r.bytes, b.size)) AS sum
             FROM replicas r JOIN blobs b ON b.id = r.blob WHERE r.state = 0 GROUP BY 1) x
         ON x.no = k.no WHERE k.reserved <> coalesce(x.sum, 0)",
    ),
    (
        "a backend's orphan bytes are not those of its condemned paths",
        "SELECT k.name || ': ' || k.orphan || ', should be ' || coalesce(x.sum, 0) FROM backends k
         LEFT JOIN (SELECT backend AS no, sum(size) AS sum FROM condemned GROUP BY 1) x
         ON x.no = k.no WHERE k.orphan <> coalesce(x.sum, 0)",
    ),
    (
        "a backend's number of rows is wrong",
        "SELECT name || ': ' || rows FROM backends
         WHERE rows <> (SELECT count(*) FROM replicas r WHERE r.backend = no)
             + (SELECT count(*) FROM condemned c WHERE c.backend = no)",
    ),
    (
        "usage of an unknown kind, or more of background work than of all",
        "SELECT k.name || ': ' || u.period || '/' || u.kind || '/' || u.class
         FROM usage u JOIN backends k ON k.no = u.backend
         WHERE u.value < 0 OR u.kind NOT BETWEEN 0 AND 7 OR (u.kind >= 4 AND u.value > coalesce(
             (SELECT a.value FROM usage a WHERE a.backend = u.backend AND a.period = u.period
                 AND a.kind = u.kind - 4 AND a.class = u.class), 0))",
    ),
    (
        "a replica names a backend that is not there",
        "SELECT write || '' FROM replicas WHERE backend NOT IN (SELECT no FROM backends)",
    ),
    (
        "a condemned path names a backend that is not there",
        "SELECT id || '' FROM condemned WHERE backend NOT IN (SELECT no FROM backends)",
    ),
    (
        "a write id stands for a replica and for a condemned path",
        "SELECT write || '' FROM replicas WHERE write IN (SELECT id FROM condemned)",
    ),
    (
        "a condemned path is a replica's own",
        "SELECT own FROM replicas r WHERE own IS NOT NULL AND EXISTS
             (SELECT 1 FROM condemned c WHERE c.backend = r.backend AND c.path = r.own)",
    ),
    (
        "two condemned paths are one",
        "SELECT path FROM condemned GROUP BY backend, path HAVING count(*) > 1",
    ),
    (
        "a condemned path waits for nothing",
        "SELECT path FROM condemned WHERE due IS NULL AND kept = 0 AND attempts < 10",
    ),
    (
        "a blob without a hash has group hashes, or bytes that somebody has read",
        "SELECT id || '' FROM blobs WHERE hash = x'' AND (groups IS NOT NULL OR good > 1)",
    ),
    (
        "a blob without a hash was not imported",
        "SELECT id || '' FROM blobs b WHERE hash = x'' AND NOT EXISTS
             (SELECT 1 FROM replicas r WHERE r.blob = b.id AND (r.form = 2 OR r.state = 2))",
    ),
    (
        "a blob's references are not its entries",
        "SELECT b.id || ': ' || b.refs || ', should be ' || coalesce(x.n, 0) FROM blobs b
         LEFT JOIN (SELECT blob, count(*) AS n FROM entries GROUP BY blob) x ON x.blob = b.id
         WHERE b.refs <> coalesce(x.n, 0)",
    ),
    (
        "a committed blob is not referred to, or one that is referred to is not committed",
        "SELECT id || '' FROM blobs WHERE (hash = zeroblob(32)) <> (refs = 0)",
    ),
    (
        "a blob's deficit or due time is wrong",
        "SELECT b.id || ': ' || b.deficit FROM blobs b JOIN placements p ON p.id = b.placement
         LEFT JOIN (SELECT blob, count(*) AS n FROM replicas WHERE state = 1 GROUP BY blob) x
         ON x.blob = b.id
         WHERE b.refs > 0 AND (b.deficit <> p.replicas - coalesce(x.n, 0)
             OR b.good <> coalesce(x.n, 0) OR (b.due IS NOT NULL) <> (b.deficit > 0))",
    ),
    (
        "a blob's name wants the key of a version that it is not in",
        "SELECT b.id || '' FROM blobs b WHERE b.born IS NOT NULL AND NOT EXISTS
             (SELECT 1 FROM versions v JOIN entries e ON e.owner = v.seq
                 WHERE v.seq = b.born AND e.blob = b.id)",
    ),
    (
        "a blob that is not committed has no intent and is not marked",
        "SELECT id || '' FROM blobs WHERE refs = 0 AND due IS NULL
             AND id NOT IN (SELECT blob FROM replicas)",
    ),
    (
        "a blob that is not committed has a replica that is no intent",
        "SELECT b.id || '' FROM blobs b JOIN replicas r ON r.blob = b.id
         WHERE b.refs = 0 AND r.state <> 0",
    ),
    (
        "a committed blob has no replica left",
        "SELECT id || '' FROM blobs WHERE refs > 0 AND id NOT IN (SELECT blob FROM replicas)",
    ),
    (
        "a blob has the wrong number of group hashes",
        "SELECT id || '' FROM blobs WHERE groups IS NOT NULL AND length(groups) % 32 <> 0
             OR length(hash) NOT IN (0, 32)",
    ),
    (
        "an entry names a blob that is not there, or bytes that it does not have",
        "SELECT e.owner || '/' || e.ordinal FROM entries e LEFT JOIN blobs b ON b.id = e.blob
         WHERE b.id IS NULL OR e.offset + e.length > b.size",
    ),
    (
        "an entry has no owner",
        "SELECT DISTINCT owner || '' FROM entries WHERE owner NOT IN (SELECT seq FROM versions)
             AND owner NOT IN (SELECT seq FROM parts)",
    ),
    (
        "a number is a version's and a part's",
        "SELECT seq || '' FROM parts WHERE seq IN (SELECT seq FROM versions)",
    ),
    (
        "an owner's entries are not numbered from 0",
        "SELECT owner || '' FROM entries GROUP BY owner HAVING max(ordinal) <> count(*) - 1",
    ),
    (
        "a version's size is not that of its entries",
        "SELECT v.seq || ': ' || v.size FROM versions v
         LEFT JOIN (SELECT owner, sum(length) AS n FROM entries GROUP BY owner) x
         ON x.owner = v.seq WHERE v.size <> coalesce(x.n, 0)",
    ),
    (
        "a version is in no bucket",
        "SELECT seq || '' FROM versions WHERE bucket NOT IN (SELECT id FROM buckets)",
    ),
    (
        "a key has versions and no current one",
        "SELECT DISTINCT p.bucket || '/' || hex(p.key) FROM versions p WHERE p.current = 0
             AND NOT EXISTS (SELECT 1 FROM versions c
                 WHERE c.current = 1 AND c.bucket = p.bucket AND c.key = p.key)",
    ),
    (
        "a current version is older than another of its key",
        "SELECT p.seq || '' FROM versions p JOIN versions c
         ON c.current = 1 AND c.bucket = p.bucket AND c.key = p.key
         WHERE p.current = 0 AND p.seq > c.seq",
    ),
    (
        "a version's number of tags is wrong",
        "SELECT v.seq || '' FROM versions v
         WHERE v.tags <> (SELECT count(*) FROM tags t WHERE t.version = v.seq)",
    ),
    (
        "a part's size is not that of its entries",
        "SELECT p.upload || '/' || p.number FROM parts p
         LEFT JOIN (SELECT owner, sum(length) AS n FROM entries GROUP BY owner) x
         ON x.owner = p.seq WHERE p.size <> coalesce(x.n, 0)",
    ),
    (
        "a part's upload is not active",
        "SELECT p.upload || '/' || p.number FROM parts p
         WHERE p.upload NOT IN (SELECT id FROM uploads WHERE result IS NULL)",
    ),
    (
        "an active upload is in no bucket",
        "SELECT id || '' FROM uploads WHERE result IS NULL
             AND bucket NOT IN (SELECT id FROM buckets)",
    ),
    (
        "a bucket's number of objects is wrong",
        "SELECT b.name || ': ' || b.objects FROM buckets b WHERE b.objects <>
             (SELECT count(*) FROM versions v
                 WHERE v.bucket = b.id AND v.current = 1 AND v.marker = 0)",
    ),
    (
        "a bucket's number of bytes is wrong",
        "SELECT b.name || ': ' || b.bytes FROM buckets b WHERE b.bytes <>
             (SELECT coalesce(sum(v.size), 0) FROM versions v
                 WHERE v.bucket = b.id AND v.current = 1)
             + (SELECT coalesce(sum(p.size), 0) FROM parts p JOIN uploads u ON u.id = p.upload
                 WHERE u.bucket = b.id)",
    ),
    (
        "a bucket's number of uploads is wrong",
        "SELECT b.name || ': ' || b.uploads FROM buckets b WHERE b.uploads <>
             (SELECT count(*) FROM uploads u WHERE u.bucket = b.id AND u.result IS NULL)",
    ),
    (
        "the sequence is behind a number in use",
        "SELECT max(seq) || '' FROM (SELECT seq FROM versions UNION ALL SELECT seq FROM parts
             UNION ALL SELECT seq FROM condemned UNION ALL SELECT id FROM buckets
             UNION ALL SELECT seq FROM lifecycles)
         HAVING max(seq) > (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'sequence')",
    ),
    (
        "the ceiling is below an id in use",
        "SELECT max(id) || '' FROM (SELECT id FROM blobs UNION ALL SELECT write FROM replicas
             UNION ALL SELECT id FROM uploads)
         HAVING max(id) > (SELECT coalesce(max(value), 0) FROM meta WHERE name = 'ceiling')",
    ),
];

impl Store {
    /// Recomputes every derived number; what is wrong, in words. Empty: clean.
    pub async fn verify(&self) -> Result<Vec<String>, StoreError> {
        let connections = std::sync::Arc::clone(&self.shared().connections);
        let verified = tokio::task::spawn_blocking(move || {
            let conn = connections.open_reader()?;
            all_checks(Sql(&conn))
        });
        verified.await.map_err(|_| StoreError::broken("the verification panicked"))?
    }
}

fn all_checks(sql: Sql<'_>) -> Result<Vec<String>, StoreError> {
    let mut wrong = Vec::new();
    let quick: Vec<String> = sql.all("PRAGMA quick_check", [], |row| row.get(0))?;
    if quick != ["ok"] {
        tell(&mut wrong, "the database file is damaged", quick);
    }
    let keys: Vec<String> = sql.all("PRAGMA foreign_key_check", [], |row| row.get(0))?;
    tell(&mut wrong, "a row names one that is not there, in table", keys);
    for (what, query) in CHECKS {
        tell(&mut wrong, what, sql.all(query, [], |row| row.get(0))?);
    }
    forms(sql, &mut wrong)?;
    if default_in_tx(sql).is_err() {
        wrong.push("the default placement cannot be read".to_owned());
    }
    Ok(wrong)
}

fn tell(wrong: &mut Vec<String>, what: &str, rows: Vec<String>) {
    if rows.is_empty() {
        return;
    }
    let more = rows.len().saturating_sub(SHOWN_MAX);
    let shown = rows[..rows.len().min(SHOWN_MAX)].join("; ");
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    wrong.push(format!("{what}: {shown}{more}"));
}

/// Reads every encoded column once.
fn forms(sql: Sql<'_>, wrong: &mut Vec<String>) -> Result<(), StoreError> {
    let mut bad = Vec::new();
    let mut statement = sql.0.prepare("SELECT seq, info, pieces FROM versions")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, info, pieces): (u64, Vec<u8>, Option<Vec<u8>>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let pieces = pieces.map_or(Ok(Vec::new()), |pieces| codec::pieces_read(&pieces));
        if codec::info_read(&info).is_err() || pieces.is_err() {
            bad.push(seq.to_string());
        }
    }
    tell(wrong, "a version is malformed", std::mem::take(&mut bad));
    let mut statement = sql.0.prepare("SELECT id, info, result FROM uploads")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, info, result): (u64, Vec<u8>, Option<Vec<u8>>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let result = result.map(|result| codec::result_read(&result)).transpose();
        if codec::upload_info_read(&info).is_err() || result.is_err() {
            bad.push(id.to_string());
        }
    }
    tell(wrong, "an upload is malformed", std::mem::take(&mut bad));
    let all: Vec<(u64, Vec<u8>)> =
        sql.all("SELECT bucket, rules FROM lifecycles", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for (bucket, rules) in all {
        if codec::lifecycle_read(&rules).is_ok_and(|rules| !rules.is_empty()) {
            continue;
        }
        bad.push(bucket.to_string());
    }
    tell(wrong, "the lifecycle rules of a bucket are malformed", bad);
    Ok(())
}
