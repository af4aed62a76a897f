//! A start: what stands in the log and not in the tables is applied.
//!
//! The log ends at the first frame that is not whole. Usually that is where nothing was written yet, or the append that was being
//! written when the process was killed, which nobody was told of. If whole frames follow, a disk or a hand has changed it: what
//! was acknowledged behind that place is lost to the ledger. Then the file is kept for people, under a name of its own,
//! and every walk over the ledger tells of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mayfly_ledger::Append;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::segment::{self, Found, HEADER_BYTES, Header, Unreadable};
use super::{form, io_error};
use crate::journal::Ledger;
use crate::{DbError, Node, StoreError, folder};

/// Rows that one transaction applies.
const ROWS_PER_COMMIT: usize = 4_096;
/// What the name of a file that could not be read to its end begins with.
const DAMAGED: &str = "damaged-";

/// A segment that was found.
struct Segment {
    header: Header,
    path: PathBuf,
}

/// Applies what is not applied yet and removes the log; the number of the newest append that is applied. Nothing has been
/// read from the tables before.
///
/// # Errors
/// The log is of another data folder or a newer version; it cannot be read; it cannot be applied. It is left as it was, and
/// what was applied stays so.
pub(crate) fn replay(folder: &Path, connection: &mut Connection, node: Node) -> Result<u64, StoreError> {
    let io = |source| StoreError::Io { what: "redo/", source };
    folder::private_folder(folder).map_err(io)?;
    let mut segments = Vec::new();
    let mut paths = Vec::new();
    for path in logs(folder).map_err(io)? {
        match Header::read(&read_head(&path).map_err(io)?) {
            Ok(header) if header.node.id != node.id => return Err(StoreError::ForeignLog),
            Ok(header) => segments.push(Segment { header, path: path.clone() }),
            Err(Unreadable::Newer(found)) => {
                return Err(StoreError::Newer { found: found.into(), known: segment::FORMAT.into() });
            }
            Err(Unreadable::Blank) => {}
        }
        paths.push(path);
    }
    // Numbers of segments begin anew with each start, which removes all that were there.
    segments.sort_by_key(|segment| segment.header.number);
    let mut replay = Replay { applied: applied(connection, node)?, connection, of: node, batch: Vec::new(), rows: 0 };
    let before = replay.applied;
    let mut damaged = None;
    for (place, segment) in segments.iter().enumerate() {
        let bytes = fs::read(&segment.path).map_err(io)?;
        let next = segments.get(place + 1).map(|next| next.header.first);
        if !replay.segment(&segment.header, &bytes, next)? {
            damaged = Some(place);
            break;
        }
    }
    replay.commit()?;
    let applied = replay.applied;
    if applied > before {
        tracing::info!(appends = applied - before, "the redo log of an earlier start was applied");
    }
    for segment in damaged.map(|place| &segments[place..]).unwrap_or_default() {
        keep(folder, segment).map_err(io)?;
    }
    for path in paths {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    Ok(applied)
}

/// Gives a file that could not be read to its end a name of its own.
fn keep(folder: &Path, segment: &Segment) -> io::Result<()> {
    let Header { number, node, .. } = segment.header;
    let name = format!("{DAMAGED}{}-{number}.log", node.boot);
    tracing::error!(
        file = name,
        "the redo log is damaged: appends behind the damage are not in the ledger; the file is kept"
    );
    fs::rename(&segment.path, folder.join(name))
}

/// Files of the log that could not be read to their end, by name.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn damaged_files(folder: &Path) -> Result<Vec<String>, DbError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| io_error(&error))? {
        let name = entry.map_err(|error| io_error(&error))?.file_name();
        names.extend(name.to_str().filter(|name| name.starts_with(DAMAGED)).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

fn logs(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".log") && !name.starts_with(DAMAGED) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut head = Vec::with_capacity(HEADER_BYTES);
    fs::File::open(path)?.take(HEADER_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The number of the newest append of `node` that is in the tables.
fn applied(connection: &Connection, node: Node) -> Result<u64, DbError> {
    let sql = "SELECT applied FROM ledger_redo WHERE node = ?1";
    let found: Option<i64> = connection.query_row(sql, [node.id], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0).cast_unsigned())
}

/// Notes, within the transaction of their rows, that the appends of `node` up to `number` are in the tables.
pub(crate) fn note_applied(connection: &Connection, node: Node, number: u64) -> Result<(), DbError> {
    let sql = "INSERT INTO ledger_redo (node, applied) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET applied = ?2";
    connection.prepare_cached(sql)?.execute(params![node.id, number.cast_signed()])?;
    Ok(())
}

struct Replay<'a> {
    connection: &'a mut Connection,
    /// Who wrote what is in the batch: rows belong to the chain of that start.
    of: Node,
    /// Up to where the tables have it.
    applied: u64,
    /// Read and not applied.
    batch: Vec<Append>,
    rows: usize,
}

impl Replay<'_> {
    /// Applies one segment; `next` is the first number of the one after it. False if it is damaged.
    fn segment(&mut self, header: &Header, bytes: &[u8], next: Option<u64>) -> Result<bool, DbError> {
        self.commit()?;
        self.of = header.node;
        let key = header.key();
        let (mut at, mut number) = (HEADER_BYTES, header.first);
        loop {
            // What stands behind, if anything, was never acknowledged.
            if next == Some(number) {
                return Ok(true);
            }
            match segment::frame(bytes, at, &key) {
                Found::Frame(found, append, end) if found == number => {
                    self.append(number, append)?;
                    (at, number) = (end, number + 1);
                }
                Found::Frame(..) => return Ok(false),
                Found::Blank | Found::Broken => {
                    return Ok(match next {
                        // Segments between, whose files are in use again, are applied.
                        Some(next) => next <= self.newest() + 1,
                        None => !segment::any_frame_after(bytes, at, number, &key),
                    });
                }
            }
        }
    }

    fn newest(&self) -> u64 {
        self.applied + self.batch.len() as u64
    }

    fn append(&mut self, number: u64, bytes: &[u8]) -> Result<(), DbError> {
        if number <= self.newest() {
            return Ok(());
        }
        if number != self.newest() + 1 {
            tracing::error!(
                first = self.newest() + 1,
                last = number - 1,
                "appends are neither in the ledger's tables nor in its redo log: the database is older than the log"
            );
            self.commit()?;
            self.applied = number - 1;
        }
        let append = form::read(bytes)?;
        self.rows += append.rows.len();
        self.batch.push(append);
        if self.rows >= ROWS_PER_COMMIT { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), DbError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let newest = self.newest();
        let transaction = self.connection.transaction()?;
        Ledger::new(self.of).append_all(&transaction, self.batch.iter())?;
        note_applied(&transaction, self.of, newest)?;
        transaction.commit()?;
        self.applied = newest;
        self.batch.clear();
        self.rows = 0;
        Ok(())
    }
}
