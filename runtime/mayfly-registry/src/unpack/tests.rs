#![expect(clippy::unwrap_used, reason = "tests")]

use tar::{Builder, Header};

use super::*;

const LIMITS: UnpackLimits = UnpackLimits { bytes_max: 1000, files_max: 4 };

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o777);
    header
}

/// One entry whose path is written as it is, whatever the tar crate thinks of it.
fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, content: &[u8]) {
    let mut header = header(kind, content.len() as u64);
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

fn archive(entries: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        entry(&mut archive, *kind, path, content);
    }
    archive.into_inner().unwrap()
}

fn stream(bytes: Vec<u8>) -> BoxStream<'static, Piece> {
    let pieces: Vec<Piece> = bytes.chunks(100).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(pieces).boxed()
}

async fn unpack(bytes: Vec<u8>) -> (Result<PathBuf, UnpackError>, tempfile::TempDir) {
    let staging = tempfile::tempdir().unwrap();
    (unpack_model(stream(bytes), staging.path(), LIMITS).await, staging)
}

#[track_caller]
fn check_refused(result: &Result<PathBuf, UnpackError>, staging: &tempfile::TempDir, part: &str) {
    let error = result.as_ref().expect_err(part).to_string();
    assert!(error.contains(part), "`{part}` is not in: {error}");
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0, "something is left in staging");
}

async fn refused(entries: &[(EntryType, &str, &[u8])], part: &str) {
    let (result, staging) = unpack(archive(entries)).await;
    check_refused(&result, &staging, part);
}

#[tokio::test]
async fn files_and_folders_come_out() {
    let long = format!("deep/{}.json", "n".repeat(150));
    let mut builder = Builder::new(Vec::new());
    entry(&mut builder, EntryType::Directory, "./", b"");
    entry(&mut builder, EntryType::Regular, "./model.onnx", b"graph");
    let mut plain = header(EntryType::Regular, 2);
    builder.append_data(&mut plain, &long, &b"{}"[..]).unwrap();
    let (result, _staging) = unpack(builder.into_inner().unwrap()).await;
    let folder = result.unwrap();
    assert_eq!(fs::read(folder.join("model.onnx")).unwrap(), b"graph");
    assert_eq!(fs::read(folder.join(long)).unwrap(), b"{}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(folder.join("model.onnx")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn hostile_entries_are_refused() {
    use EntryType as E;
    refused(&[(E::Regular, "../evil", b"x")], "leaves the archive").await;
    refused(&[(E::Regular, "a/../../evil", b"x")], "leaves the archive").await;
    refused(&[(E::Regular, "/etc/evil", b"x")], "is absolute").await;
    refused(&[(E::Regular, "a\nb", b"x")], "control character").await;
    refused(&[(E::Regular, "a\\b", b"x")], "backslash").await;
    refused(&[(E::Regular, "a/b/c/d/e/f/g/h/i", b"x")], "nested too deep").await;
    refused(&[(E::Symlink, "link", b"")], "it holds a link").await;
    refused(&[(E::Link, "link", b"")], "it holds a link").await;
    refused(&[(E::Char, "dev", b"")], "neither a file nor a folder").await;
    refused(&[(E::Fifo, "pipe", b"")], "neither a file nor a folder").await;
    refused(&[(E::GNUSparse, "sparse", b"")], "neither a file nor a folder").await;
    refused(&[(E::Regular, "a", b"1"), (E::Regular, "./a", b"2")], "there twice").await;
    refused(&[(E::Regular, "a", b"1"), (E::Regular, "a/b", b"2")], "a file and a folder").await;
    refused(&[(E::Directory, "a", b"")], "no files").await;
    refused(&[(E::XHeader, "x", b"20 size=99999999999\n"), (E::Regular, "a", b"1")], "`size` is not supported").await;
    refused(&[(E::XHeader, "x", b"19 path=../../evil\n"), (E::Regular, "a", b"1")], "leaves the archive").await;
    refused(&[(E::GNULongName, "x", &[b'a'; 17 * 1024]), (E::Regular, "a", b"1")], "extended header is too long").await;
}

#[tokio::test]
async fn limits_hold_before_anything_is_written() {
    use EntryType as E;
    refused(&[(E::Regular, "a", &[0; 1001])], "model_bytes_max = 1000").await;
    refused(&[(E::Regular, "a", &[0; 600]), (E::Regular, "b", &[0; 600])], "model_bytes_max = 1000").await;
    let names = ["a", "b", "c", "d", "e"];
    refused(&names.map(|name| (E::Regular, name, &b"x"[..])), "model_files_max = 4").await;
    // A header that promises more than can ever come must not make us allocate or write it.
    let mut lie = header(E::Regular, u64::MAX >> 1);
    lie.as_gnu_mut().unwrap().name[0] = b'a';
    lie.set_cksum();
    let (result, staging) = unpack(lie.as_bytes().to_vec()).await;
    check_refused(&result, &staging, "larger than");
    // Folders without end.
    let folders: Vec<String> = (0..50).map(|number| format!("folder-{number}")).collect();
    let many: Vec<_> = folders.iter().map(|path| (E::Directory, path.as_str(), &b""[..])).collect();
    refused(&many, "larger than").await;
}

#[tokio::test]
async fn broken_uploads_leave_nothing() {
    let whole = archive(&[(EntryType::Regular, "a", &[7; 900])]);
    let (result, staging) = unpack(whole[..700].to_vec()).await;
    check_refused(&result, &staging, "not a complete tar archive");
    let (result, staging) = unpack(b"this is no archive at all".repeat(100)).await;
    check_refused(&result, &staging, "not a complete tar archive");
    let (result, staging) = unpack(Vec::new()).await;
    check_refused(&result, &staging, "no files");
    let mut endless = archive(&[(EntryType::Regular, "a", b"x")]);
    endless.resize(TRAILING_BYTES_MAX + 100_000, 0);
    let (result, staging) = unpack(endless).await;
    check_refused(&result, &staging, "more follows");

    let staging = tempfile::tempdir().unwrap();
    let pieces = [Ok(Bytes::copy_from_slice(&whole[..700])), Err(ArtifactError::Incomplete)];
    let result = unpack_model(futures::stream::iter(pieces).boxed(), staging.path(), LIMITS).await;
    check_refused(&result, &staging, "the upload ended early");
}
