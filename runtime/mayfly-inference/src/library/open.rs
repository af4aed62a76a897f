//! Opening the library once for the whole process.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use super::places::{self, ORT_VERSION};
use crate::{Config, RuntimeInfo, StartError};

/// Switches the telemetry of ONNX Runtime's official builds off; read by the library when it starts.
const TELEMETRY_OFF: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");
/// Larger blocks are mapped, and given back to the system as soon as they are freed (glibc): weights that were not mapped
/// from a file. Smaller ones are what runs work with, some of it asked for and freed by each operation; mapped anew each
/// time, a prompt of 512 tokens cost 30,000 page faults, a seventh of its time. They go back by `malloc_trim`, which
/// follows each unload and each engine's rest.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD_BYTES: c_int = 32 << 20;
/// Free memory at the end of a heap beyond which it is given back without being asked: never by itself, for the same reason.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD_BYTES: c_int = 1 << 30;

/// Settings of the process that must be made before any thread starts. **Call first in `main`, before any thread.**
///
/// ONNX Runtime's telemetry is switched off through the process's environment, which can only be changed while there is
/// one thread, and glibc is told to give large blocks back. Called later it does nothing, and [`crate::Inference::start`]
/// says so, unless `ORT_DISABLE_TELEMETRY=1` came from outside.
pub fn prepare_process() {
    // The thread that asks is one of them. Where it cannot be told, it is not done.
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone {
        // SAFETY: this is the only thread, so nobody reads or writes the environment meanwhile.
        #[expect(unsafe_code, clippy::disallowed_methods, reason = "the library reads nothing else")]
        unsafe {
            std::env::set_var(TELEMETRY_OFF.0, TELEMETRY_OFF.1);
        }
    }
    #[cfg(target_env = "gnu")]
    {
        for (setting, value) in [
            (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
            // `malloc_trim` gives back the end of the first heap only: a load on a thread with another one would leave
            // some megabytes there, each time. Only the library allocates here, and its runs do so from one thread.
            (libc::M_ARENA_MAX, 1),
        ] {
            // SAFETY: changes one setting of the allocator, under its own lock.
            #[expect(unsafe_code, reason = "glibc has no other way")]
            let done = unsafe { libc::mallopt(setting, value) };
            debug_assert_eq!(done, 1, "the value is allowed");
        }
    }
}

/// The library, open.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    pub(crate) environment: Environment,
    pub(crate) info: RuntimeInfo,
    /// Threads that work on one run in the environment's shared pool, the caller's included.
    pub(crate) pool_threads: usize,
}

/// ONNX Runtime is one per process whatever we do: the binding builds one environment in a process's life and refuses a
/// second, also after the first is gone. Servers in one process therefore share it through this, the crate's only
/// global; each of them still gets it as a handle from [`open`].
static OPEN: Mutex<Option<Library>> = Mutex::new(None);

/// Finds the library and opens it, or gives the handle if this process has it open.
pub(crate) fn open(config: &Config, threads: usize) -> Result<Library, StartError> {
    let found = places::find(config)?;
    let dylib = found.canonicalize().unwrap_or(found);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = &*open {
        if library.info.dylib != dylib {
            return Err(StartError::Unusable(format!(
                "this process already uses the one at {}; a process can use only one",
                library.info.dylib.display()
            )));
        }
        return Ok(library.clone());
    }
    let telemetry_off = std::env::var_os(TELEMETRY_OFF.0).is_some_and(|value| value == TELEMETRY_OFF.1);
    if !telemetry_off {
        let (name, value) = TELEMETRY_OFF;
        return Err(StartError::Unusable(format!(
            "its telemetry is not switched off: set {name}={value} in the process's environment \
             (or call mayfly_inference::prepare_process first in main)"
        )));
    }
    let version = version_of(&dylib)?;
    check_version(&version)?;
    let environment = environment(&dylib, threads).map_err(StartError::Unusable)?;
    let providers = providers().map_err(|error| StartError::Unusable(error.to_string()))?;
    let library = Library { environment, info: RuntimeInfo { version, dylib, providers }, pool_threads: threads };
    *open = Some(library.clone());
    Ok(library)
}

fn check_version(version: &str) -> Result<(), StartError> {
    let line = |text: &str| text.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if line(version) == line(ORT_VERSION) {
        return Ok(());
    }
    let wanted = line(ORT_VERSION).join(".");
    Err(StartError::Unusable(format!("its version is {version}; this Mayfly needs {wanted}.x (best {ORT_VERSION})")))
}

/// Asks the library for its version before the binding touches it: the binding panics on one that does not fit.
#[expect(unsafe_code, reason = "the library is C")]
fn version_of(dylib: &Path) -> Result<String, StartError> {
    let unusable = |text: &str| StartError::Unusable(format!("{}: {text}", dylib.display()));
    let path = CString::new(dylib.as_os_str().as_bytes()).map_err(|_| unusable("its path has a zero byte"))?;
    // SAFETY: `path` is a C string. What the library's own initializers do is the operator's choice of library.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: `dlerror` gives null or a C string that stays until the next call on this thread.
        let text = unsafe { libc::dlerror() };
        if text.is_null() {
            return Err(unusable("it cannot be opened"));
        }
        // SAFETY: as above.
        return Err(unusable(&unsafe { CStr::from_ptr(text) }.to_string_lossy()));
    }
    // SAFETY: `handle` is open, and stays so: it is never closed, as its threads and thread-locals may outlive any use.
    let symbol = unsafe { libc::dlsym(handle, c"OrtGetApiBase".as_ptr()) };
    if symbol.is_null() {
        return Err(unusable("it is not ONNX Runtime (no OrtGetApiBase)"));
    }
    // SAFETY: ONNX Runtime has exported this function with this signature since its first stable version.
    let get = unsafe {
        std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(symbol)
    };
    // SAFETY: it takes nothing and gives null or a static structure.
    let Some(base) = (unsafe { get().as_ref() }) else {
        return Err(unusable("it gives no programming interface"));
    };
    // SAFETY: gives null or a static C string.
    let text = unsafe { (base.GetVersionString)() };
    if text.is_null() {
        return Err(unusable("it gives no version"));
    }
    // SAFETY: as above.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// One environment with one shared pool of threads that never spin.
fn environment(dylib: &Path, threads: usize) -> Result<Environment, String> {
    let builder = ort::init_from(dylib).map_err(|error| error.to_string())?;
    let text = |error: ort::Error| error.to_string();
    let pool = GlobalThreadPoolOptions::default();
    let pool = pool.with_intra_threads(threads).map_err(text)?.with_inter_threads(1).map_err(text)?;
    let pool = pool.with_spin_control(false).map_err(text)?;
    let log = |level: LogLevel, category: &str, id: &str, place: &str, message: &str| match level {
        LogLevel::Fatal | LogLevel::Error => tracing::warn!(target: "onnxruntime", category, id, place, "{message}"),
        LogLevel::Warning => tracing::debug!(target: "onnxruntime", category, id, place, "{message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(target: "onnxruntime", category, id, place, "{message}"),
    };
    let environment = builder
        .with_name("mayfly")
        .with_telemetry(false)
        .with_global_thread_pool(pool)
        .with_logger(Arc::new(log))
        .build()
        .map_err(text)?;
    // Below this the library would format a text for every step of every load, only for it to be thrown away.
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

/// The providers compiled into the library. It must be open.
#[expect(unsafe_code, reason = "the binding asks for one provider at a time only")]
fn providers() -> ort::Result<Vec<String>> {
    let mut names: *mut *mut c_char = ptr::null_mut();
    let mut count: c_int = 0;
    // SAFETY: both point to a place of their own.
    unsafe { ort::Error::result_from_status((ort::api().GetAvailableProviders)(&mut names, &mut count))? };
    let providers = (0..usize::try_from(count).unwrap_or(0))
        // SAFETY: the library gave `count` C strings at `names`, which live until they are released below.
        .map(|index| unsafe { CStr::from_ptr(*names.add(index)) }.to_string_lossy().into_owned())
        .collect();
    // SAFETY: released once, with the count it came with.
    unsafe { ort::Error::result_from_status((ort::api().ReleaseAvailableProviders)(names, count))? };
    Ok(providers)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn only_the_line_that_was_tested() {
        for (version, fits) in [("1.31.1", true), ("1.31.0", true), ("1.30.9", false), ("1.32.0", false), ("", false)] {
            assert_eq!(check_version(version).is_ok(), fits, "{version}");
        }
        let error = check_version("1.24.2").expect_err("too old").to_string();
        assert!(error.contains("1.24.2") && error.contains("1.31.x"), "{error}");
    }

    #[test]
    fn what_is_not_the_library_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), b"not a library").expect("it can be written");
        assert!(matches!(version_of(file.path()), Err(StartError::Unusable(_))));
        let other = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"];
        if let Some(other) = other.iter().map(PathBuf::from).find(|path| path.is_file()) {
            let error = version_of(&other).expect_err("libm is not ONNX Runtime").to_string();
            assert!(error.contains("OrtGetApiBase"), "{error}");
        }
    }
}
