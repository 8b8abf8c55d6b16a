//! What `nvml-wrapper` does not wrap: the instance ids of MIG devices, and the first form of the memory query, the only one
//! that drivers before 510 have.
#![expect(unsafe_code, reason = "functions of the driver's library; each call says what it relies on")]

use std::path::Path;

use nvml_wrapper::Device;
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDevice_t, nvmlMemory_t};

/// What these functions return when all is well (`NVML_SUCCESS`).
const SUCCESS: u32 = 0;

/// The library once more, for functions that are called by their address.
pub struct RawNvml(NvmlLib);

impl RawNvml {
    /// The library at `path`, which an [`nvml_wrapper::Nvml`] of this process was made from and keeps initialised.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        // SAFETY: it is loaded already, so nothing of it is executed by loading it again.
        unsafe { NvmlLib::new(path) }.ok().map(Self)
    }

    /// Ids of the GPU instance and the compute instance that a MIG device is made of.
    #[must_use]
    pub fn instance_ids(&self, device: &Device<'_>) -> Option<(u32, u32)> {
        let gpu = number(self.0.nvmlDeviceGetGpuInstanceId.as_ref().ok()?, device)?;
        Some((gpu, number(self.0.nvmlDeviceGetComputeInstanceId.as_ref().ok()?, device)?))
    }

    /// Bytes of memory, all and in use.
    #[must_use]
    pub fn memory(&self, device: &Device<'_>) -> Option<(u64, u64)> {
        let query = self.0.nvmlDeviceGetMemoryInfo.as_ref().ok()?;
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        // SAFETY: the handle is that of a live device, as the borrow shows; the library fills the structure it is given.
        let code = unsafe { query(device.handle(), &raw mut memory) };
        (code == SUCCESS).then_some((memory.total, memory.used))
    }
}

fn number(query: &unsafe extern "C" fn(nvmlDevice_t, *mut u32) -> u32, device: &Device<'_>) -> Option<u32> {
    let mut number = 0;
    // SAFETY: as above.
    let code = unsafe { query(device.handle(), &raw mut number) };
    (code == SUCCESS).then_some(number)
}
