//! Runs over memory of our own: values that look at it, bound in place as inputs and outputs.
//!
//! `ort`'s own binding copies every borrowed input when it is bound, and takes only memory of ONNX Runtime as outputs;
//! the same buffer as past and present needs the calls below it.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::ptr::NonNull;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, TensorElementType};
use ort::{AsPointer as _, sys};

/// A tensor that looks at memory it does not own.
pub(in crate::generation) struct View(NonNull<sys::OrtValue>);

// SAFETY: a value may be used by any thread, one at a time.
#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
unsafe impl Send for View {}

impl View {
    /// A view of memory of the kind that `info` names as a tensor of `shape`.
    ///
    /// # Safety
    /// `data` holds at least `shape`'s elements of `element_type`, aligned for it, for as long as the view or any binding
    /// it was bound to may run; and nobody else uses that memory while such a run is under way.
    #[expect(unsafe_code, reason = "see the module")]
    pub(in crate::generation) unsafe fn new(
        info: &MemoryInfo,
        element_type: TensorElementType,
        data: *mut u8,
        shape: &[i64],
    ) -> ort::Result<Self> {
        let size = match element_type {
            TensorElementType::Int64 => 8,
            TensorElementType::Float32 => 4,
            TensorElementType::Float16 => 2,
            TensorElementType::Uint8 => 1,
            other => unreachable!("{other} is no element type of a decoder's tensors"),
        };
        let elements =
            shape.iter().try_fold(1_usize, |elements, size| elements.checked_mul(usize::try_from(*size).ok()?));
        let bytes = elements.and_then(|elements| elements.checked_mul(size));
        let bytes = bytes.expect("the memory behind it exists, so its size fits");
        let mut value = std::ptr::null_mut();
        // SAFETY: the shape is a slice of ours; the memory is what our caller promises; `value` is written on success.
        unsafe {
            check((ort::api().CreateTensorWithDataAsOrtValue)(
                info.ptr(),
                data.cast::<c_void>(),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element_type.into(),
                &mut value,
            ))?;
        }
        NonNull::new(value).map(Self).ok_or_else(|| ort::Error::new("a tensor was made and not given"))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: made by `new`, released once; bindings hold references of their own.
        #[expect(unsafe_code, reason = "see the module")]
        unsafe {
            (ort::api().ReleaseValue)(self.0.as_ptr());
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

/// Inputs and outputs of runs, bound once and run as often as wanted.
#[derive(Debug)]
pub(in crate::generation) struct Binding(IoBinding);

impl Binding {
    pub(in crate::generation) fn new(session: &Session) -> ort::Result<Self> {
        session.create_binding().map(Self)
    }

    /// Every later run reads the input `name` from `view`.
    pub(in crate::generation) fn input(&mut self, name: &CStr, view: &View) -> ort::Result<()> {
        // SAFETY: all three live for the call; the binding takes a reference of its own to the value.
        #[expect(unsafe_code, reason = "see the module")]
        unsafe {
            check((ort::api().BindInput)(self.0.ptr_mut(), name.as_ptr(), view.0.as_ptr()))
        }
    }

    /// Every later run writes the output `name` to `view`.
    pub(in crate::generation) fn output(&mut self, name: &CStr, view: &View) -> ort::Result<()> {
        // SAFETY: as for inputs.
        #[expect(unsafe_code, reason = "see the module")]
        unsafe {
            check((ort::api().BindOutput)(self.0.ptr_mut(), name.as_ptr(), view.0.as_ptr()))
        }
    }

    /// Runs `session`, which the binding was made for.
    pub(in crate::generation) fn run(&mut self, session: &mut Session, options: &RunOptions) -> ort::Result<()> {
        // SAFETY: the session is borrowed mutably, so nothing else runs on it; the memory behind the views is alive and
        // unused, as whoever made them promised.
        #[expect(unsafe_code, reason = "see the module")]
        unsafe {
            check((ort::api().RunWithBinding)(session.ptr().cast_mut(), options.ptr(), self.0.ptr()))
        }
    }
}

/// Every later run of `binding` reads the input `name` from `value`, which has to live as long; where it is in another
/// memory than the session wants, it is copied now.
pub(in crate::generation) fn bind_value(
    binding: &mut IoBinding,
    name: &CStr,
    value: &SessionInputValue<'_>,
) -> ort::Result<()> {
    let value: &DynValue = value;
    // SAFETY: as for views: the binding takes a reference of its own to the value, and our caller keeps its memory.
    #[expect(unsafe_code, reason = "see the module")]
    unsafe {
        check((ort::api().BindInput)(binding.ptr_mut(), name.as_ptr(), value.ptr()))
    }
}

/// Host memory, for views.
pub(in crate::generation) fn host_memory() -> ort::Result<MemoryInfo<'static>> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
}

/// A name of the graph as the library takes it.
pub(in crate::generation) fn name(name: &str) -> ort::Result<CString> {
    CString::new(name).map_err(|_| ort::Error::new("a tensor's name has a zero byte"))
}

#[expect(unsafe_code, reason = "see the module")]
unsafe fn check(status: sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: our callers give what the library has just returned, once.
    unsafe { ort::Error::result_from_status(status) }
}
