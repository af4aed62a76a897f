#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::segment::{self, Found, HEADER_BYTES, Header, Unreadable};
use super::{Log, form, replay};
use crate::journal::tests::model::{Naive, Random, random_append};
use crate::{Node, migrations};

const KEY: segment::Key = [7; 32];

fn header() -> Header {
    Header { number: 3, node: Node { id: [1; 16], boot: 9 }, first: 41, salt: [5; 16] }
}

fn frames(appends: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    for (number, append) in (1..).zip(appends) {
        let at = segment::open_frame(&mut bytes);
        bytes.extend_from_slice(append);
        segment::close_frame(&mut bytes[at..], number, &KEY);
    }
    bytes
}

#[test]
fn a_header_and_back_and_any_other_byte_is_none() {
    let bytes = header().write();
    assert_eq!(Header::read(&bytes), Ok(header()));
    for place in 0..HEADER_BYTES {
        let mut other = bytes;
        other[place] ^= 1;
        assert_eq!(Header::read(&other), Err(Unreadable::Blank), "byte {place}");
        assert_eq!(Header::read(&bytes[..place]), Err(Unreadable::Blank), "cut at {place}");
    }
    assert_ne!(Header { salt: [6; 16], ..header() }.key(), header().key());
}

#[test]
fn frames_and_back_and_any_other_byte_is_none() {
    let bytes = frames(&[b"one", b"another"]);
    let mut blank = bytes.clone();
    blank.resize(bytes.len() + 100, 0);
    let Found::Frame(1, b"one", next) = segment::frame(&blank, HEADER_BYTES, &KEY) else { panic!("the first") };
    let Found::Frame(2, b"another", end) = segment::frame(&blank, next, &KEY) else { panic!("the second") };
    assert_eq!((end, segment::frame(&blank, end, &KEY)), (bytes.len(), Found::Blank));
    for place in HEADER_BYTES..next {
        let mut other = blank.clone();
        other[place] ^= 4;
        assert_eq!(segment::frame(&other, HEADER_BYTES, &KEY), Found::Broken, "byte {place}");
        assert!(segment::any_frame_after(&other, HEADER_BYTES, 1, &KEY), "the second is still there");
    }
    assert_eq!(segment::frame(&blank, HEADER_BYTES, &[8; 32]), Found::Broken, "a frame of another use of the file");
    assert!(!segment::any_frame_after(&blank, next, 2, &KEY), "nothing follows the last");
}

const NODE: Node = Node { id: [1; 16], boot: 1 };

/// Position and hash of the newest row, sums and open calls: what a state of the ledger is told by.
fn state(connection: &Connection) -> (i64, Vec<u8>, i64, i64) {
    let sql = "SELECT ifnull(max(pos), 0), (SELECT hash FROM ledger ORDER BY pos DESC LIMIT 1),
                      (SELECT ifnull(sum(quantity_low), 0) FROM rollup), (SELECT count(*) FROM ledger_live) FROM ledger";
    let row = |row: &rusqlite::Row<'_>| {
        Ok((row.get(0)?, row.get::<_, Option<_>>(1)?.unwrap_or_default(), row.get(2)?, row.get(3)?))
    };
    connection.query_row(sql, [], row).unwrap()
}

/// The ledger that a log makes of an empty one, and up to which append.
fn replayed(connection: &mut Connection, folder: &Path) -> (u64, (i64, Vec<u8>, i64, i64)) {
    let tables = "ledger ledger_live rollup ledger_boot ledger_redo answer";
    for table in tables.split(' ') {
        connection.execute(&format!("DELETE FROM {table}"), []).unwrap();
    }
    // Numbers given once are not given again, and the hash covers them.
    connection.execute("DELETE FROM sqlite_sequence", []).unwrap();
    let applied = replay(folder, connection, NODE).unwrap();
    (applied, state(connection))
}

#[test]
fn cut_at_any_byte_what_is_whole_is_applied_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let (mut calls, mut naive, mut ends) = (Vec::new(), Naive::default(), vec![HEADER_BYTES]);
    let mut log = Log::begin(folder.path(), NODE, 0, false).unwrap();
    while ends.len() < 7 {
        let rows = random_append(&mut random, &mut calls);
        if naive.take(&rows) {
            let bytes = log.add(&mayfly_ledger::Append { rows, answer: None }).unwrap();
            log.write(0).unwrap();
            ends.push(ends.last().unwrap() + usize::try_from(bytes).unwrap());
        }
    }
    let whole = fs::read(folder.path().join("0000000000000001.log")).unwrap();
    let mut connection = Connection::open_in_memory().unwrap();
    migrations::migrate(&mut connection).unwrap();
    let torn = tempfile::tempdir().unwrap();
    let file = torn.path().join("0000000000000001.log");
    let states: Vec<_> = ends
        .iter()
        .map(|end| {
            fs::write(&file, &whole[..*end]).unwrap();
            replayed(&mut connection, torn.path())
        })
        .collect();
    for cut in 0..=ends[6] {
        let number = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
        assert_eq!(states[number].0, number as u64);
        fs::write(&file, &whole[..cut]).unwrap();
        assert_eq!(replayed(&mut connection, torn.path()), states[number], "cut at {cut} of {ends:?}");
        assert!(!file.exists(), "what was applied goes");
    }
    // Applied twice is applied once.
    fs::write(&file, &whole).unwrap();
    assert_eq!(replay(torn.path(), &mut connection, NODE).unwrap(), 6);
    assert_eq!(state(&connection), states[6].1);
}

#[test]
fn appends_and_back() {
    let mut random = Random(3);
    let mut calls = Vec::new();
    for _ in 0..200 {
        let append = mayfly_ledger::Append { rows: random_append(&mut random, &mut calls), answer: None };
        let mut bytes = Vec::new();
        form::write(&append, &mut bytes).unwrap();
        let back = form::read(&bytes).unwrap();
        assert_eq!((back.rows, back.answer), (append.rows, None));
        for cut in 0..bytes.len() {
            assert!(form::read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn what_was_not_acknowledged_is_never_applied() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(9);
    let mut calls = Vec::new();
    let mut connection = Connection::open_in_memory().unwrap();
    migrations::migrate(&mut connection).unwrap();
    let mut log = Log::begin(folder.path(), NODE, 0, false).unwrap();
    let mut next = |naive: &mut Naive| loop {
        let rows = random_append(&mut random, &mut calls);
        if naive.take(&rows) {
            return mayfly_ledger::Append { rows, answer: None };
        }
    };
    let mut naive = Naive::default();
    let first = next(&mut naive);
    log.add(&first).unwrap();
    log.write(0).unwrap();
    // The disk took two more, and then said that it had failed.
    let refused = [next(&mut naive), next(&mut naive)];
    for append in &refused {
        log.add(append).unwrap();
    }
    log.fail_next_write();
    log.write(0).unwrap_err();
    assert_eq!(log.newest(), 1);
    let rows = i64::try_from(first.rows.len()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let copy_all = || {
        for file in fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    };
    copy_all();
    assert_eq!(replayed(&mut connection, copy.path()).1.0, rows, "killed at once");
    log.add(&refused[0]).unwrap();
    log.write(0).unwrap();
    copy_all();
    let found = replayed(&mut connection, copy.path());
    assert_eq!((found.0, found.1.0), (2, rows + i64::try_from(refused[0].rows.len()).unwrap()), "killed later");
}
