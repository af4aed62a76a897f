//! A file of our own as bytes, without reading it into memory: models inside `.onnx` files reach two gigabytes.

use std::fs::File;
use std::io;

use prost::bytes::Bytes;

struct Mapped {
    address: *mut core::ffi::c_void,
    len: usize,
}

// SAFETY: the mapping is read-only and belongs to this value alone; nothing about it is tied to a thread.
#[expect(unsafe_code, reason = "a mapping is a plain read-only range of memory")]
unsafe impl Send for Mapped {}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `address` and `len` are those of a live mapping of ours, readable until drop. The file below it is the
        // import's own copy in a folder only the host can enter, and nothing writes it while it is mapped.
        #[expect(unsafe_code, reason = "a view of a mapping has no safe form")]
        unsafe {
            std::slice::from_raw_parts(self.address.cast::<u8>(), self.len)
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map` and no view outlives this owner.
        #[expect(unsafe_code, reason = "unmapping has no safe form")]
        unsafe {
            libc::munmap(self.address, self.len);
        }
    }
}

/// Maps the whole of `file`, which must be a copy of our own that nobody changes.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    use std::os::fd::AsRawFd as _;
    let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a fresh private read-only mapping chosen by the kernel aliases nothing; the result is checked.
    #[expect(unsafe_code, reason = "mapping a file has no safe form")]
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(Bytes::from_owner(Mapped { address, len }))
}
