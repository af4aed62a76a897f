//! An upload on its way: a file in the staging folder that removes itself unless it is given its name.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use mayfly_registry::ArtifactError;
use mayfly_types::{Digest, Digester};

use super::blocking;
use crate::folder;

/// Pieces are gathered up to this size before they are handed to the disk.
const WRITE_BYTES: usize = 256 * 1024;

/// A complete upload without its name. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Staged {
    file: Unfinished,
    pub(super) digest: Digest,
    pub(super) length: u64,
}

/// Removes the file when dropped.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there any more if it got its name. What cannot be removed now goes at the next start.
        if !self.0.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

struct Writer {
    output: File,
    digester: Digester,
    gathered: Vec<u8>,
}

impl Writer {
    fn flush(&mut self) -> io::Result<()> {
        self.digester.update(&self.gathered);
        self.output.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }
}

impl Staged {
    /// Writes the stream to a new file at `path`, at most `limit` bytes, and makes it durable and read-only.
    pub(super) async fn write(
        path: PathBuf,
        mut bytes: BoxStream<'static, Result<Bytes, ArtifactError>>,
        limit: u64,
    ) -> Result<Self, ArtifactError> {
        let file = Unfinished(path.clone());
        let output = blocking("making a staging file", move || folder::private_file(&path)).await?;
        let mut writer = Writer { output, digester: Digester::new(), gathered: Vec::with_capacity(WRITE_BYTES) };
        let mut length = 0_u64;
        while let Some(piece) = bytes.next().await {
            let mut piece = piece?;
            length = length.saturating_add(piece.len() as u64);
            if length > limit {
                return Err(ArtifactError::TooLarge { limit });
            }
            while !piece.is_empty() {
                let room = WRITE_BYTES.saturating_sub(writer.gathered.len());
                writer.gathered.extend_from_slice(&piece.split_to(room.min(piece.len())));
                if writer.gathered.len() >= WRITE_BYTES {
                    writer = blocking("writing an upload", move || writer.flush().map(|()| writer)).await?;
                }
            }
        }
        let digest = blocking("writing an upload", move || {
            writer.flush()?;
            folder::seal_file(&writer.output)?;
            Ok(writer.digester.finish())
        });
        Ok(Self { digest: digest.await?, file, length })
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.0
    }

    /// Leaves it where it is: the folder it is part of gets the name.
    pub(super) fn keep(mut self) {
        self.file.0 = PathBuf::new();
    }

    /// Gives it its name; if that is taken the same bytes are there already.
    pub(super) fn settle(self, path: &Path) -> io::Result<()> {
        folder::settle(self.path(), path).map(|_new| ())
    }
}
