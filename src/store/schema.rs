//! The shape of the database file: numbered migrations, forward only.
//!
//! `PRAGMA user_version` is the number of migrations that were run. A file with a greater number
//! is a newer program's and is refused. Before a file that has a schema is migrated, a copy of it
//! is kept beside it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rusqlite::Connection;

use super::error::StoreError;

/// In order; the first makes version 1. None is ever changed once it was released.
pub(super) const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_first.sql")];

/// "LARD": tells our file from any other SQLite database.
const APPLICATION_ID: i32 = 0x4c41_5244;

/// Brings the database at `path`, open as `conn`, to the last of `migrations`.
pub(super) fn migrate(
    conn: &Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), StoreError> {
    let version: usize = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: usize = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    let shown = path.display();
    if (version > 0 || tables > 0) && application != APPLICATION_ID {
        return Err(StoreError::Open(format!("{shown} is not a database of Larder")));
    }
    if version > migrations.len() {
        return Err(StoreError::Open(format!(
            "{shown} has schema {version}, this Larder knows schemas up to {}: it was written by \
             a newer version, use that one",
            migrations.len()
        )));
    }
    for (before, sql) in migrations.iter().enumerate().skip(version) {
        if before > 0 {
            keep_copy(conn, path, before)?;
        }
        conn.execute_batch(&format!(
            "BEGIN EXCLUSIVE; {sql}; PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {}; COMMIT;",
            before + 1
        ))
        .inspect_err(|_| {
            let _ = conn.execute_batch("ROLLBACK");
        })?;
    }
    Ok(())
}

/// Where the copy of a database of schema `version` is kept.
pub(super) fn copy_path(path: &Path, version: usize) -> PathBuf {
    path.with_extension(format!("schema-{version}.db"))
}

fn keep_copy(conn: &Connection, path: &Path, version: usize) -> Result<(), StoreError> {
    let copy = copy_path(path, version);
    let unfinished = copy.with_extension("unfinished");
    let failed = |err: std::io::Error| {
        StoreError::Open(format!("no copy could be kept at {}: {err}", copy.display()))
    };
    match fs::remove_file(&unfinished) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(failed(err)),
        _ => (),
    }
    let text = unfinished
        .to_str()
        .ok_or_else(|| StoreError::Open("the data directory's name is not UTF-8".to_owned()))?;
    conn.execute("VACUUM INTO ?1", [text])?;
    fs::rename(&unfinished, &copy).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_run_once_in_order_and_keep_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let conn = Connection::open(&path).unwrap();
        let two = ["CREATE TABLE a (x INTEGER) STRICT", "ALTER TABLE a ADD COLUMN y INTEGER"];
        migrate(&conn, &path, &two[..1]).unwrap();
        conn.execute("INSERT INTO a VALUES (7)", []).unwrap();
        migrate(&conn, &path, &two).unwrap();
        migrate(&conn, &path, &two).unwrap();
        let row: (i64, Option<i64>) =
            conn.query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(row, (7, None));
        let copy = Connection::open(copy_path(&path, 1)).unwrap();
        assert_eq!(copy.query_row("SELECT x FROM a", [], |r| r.get::<_, i64>(0)).unwrap(), 7);
        assert!(copy.prepare("SELECT y FROM a").is_err());
        // A newer file is refused, and so is somebody else's.
        let err = migrate(&conn, &path, &two[..1]).unwrap_err();
        assert!(err.to_string().contains("newer version"), "{err}");
        let other = Connection::open_in_memory().unwrap();
        other.execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(migrate(&other, Path::new("x.db"), &two).is_err());
    }

    #[test]
    fn a_failed_migration_leaves_the_old_schema() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let conn = Connection::open(&path).unwrap();
        let two = ["CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER); NONSENSE"];
        assert!(migrate(&conn, &path, &two).is_err());
        let version: usize = conn.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, 1);
        assert!(conn.prepare("SELECT x FROM b").is_err());
    }
}
