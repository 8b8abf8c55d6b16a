//! What `nvml-wrapper` does not wrap: the instance ids of MIG devices, also in events, and the first form of the memory query, the
//! only one that drivers before 510 have.
#![expect(unsafe_code, reason = "functions of the driver's library; each call says what it relies on")]

use std::path::Path;

use nvml_wrapper::{Device, EventSet};
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDevice_t, nvmlEventData_t, nvmlMemory_t};

/// What these functions return when all is well (`NVML_SUCCESS`).
const SUCCESS: u32 = 0;
/// What waiting returns when nothing happened (`NVML_ERROR_TIMEOUT`).
const TIMEOUT: u32 = 10;
/// `NVML_ERROR_FUNCTION_NOT_FOUND`.
const NO_FUNCTION: u32 = 13;
/// Bit of critical errors among types of events (`nvmlEventTypeXidCriticalError`).
const XID: u64 = 8;

/// The library once more, for functions that are called by their address.
pub struct RawNvml(NvmlLib);

/// An error that the driver reported.
#[derive(Debug, Clone, Copy)]
pub struct RawXid {
    /// The handle as a number: it is compared and nothing else.
    device: usize,
    /// Its number in NVIDIA's catalogue.
    pub number: u64,
    /// The part of the GPU that it concerns, if one.
    pub gpu_instance: Option<u32>,
    /// The part of that part.
    pub compute_instance: Option<u32>,
}

impl RawXid {
    /// Whether the error is one of this device. Unlike a question for the UUID this works for a device that is lost.
    #[must_use]
    pub fn is_of(&self, device: &Device<'_>) -> bool {
        // SAFETY: the handle is not used as one.
        self.device == unsafe { device.handle() } as usize
    }
}

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

    /// Waits for an error; `None` when there was none, NVML's code when it does not wait.
    pub fn wait(&self, set: &EventSet<'_>, timeout_ms: u32) -> Result<Option<RawXid>, u32> {
        let query = self.0.nvmlEventSetWait_v2.as_ref().map_err(|_| NO_FUNCTION)?;
        let nothing = std::ptr::null_mut();
        let mut data =
            nvmlEventData_t { device: nothing, eventType: 0, eventData: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        // SAFETY: the set is alive, as the borrow shows; the library fills the structure it is given.
        match unsafe { query(set.handle(), &raw mut data, timeout_ms) } {
            SUCCESS => Ok((data.eventType & XID != 0).then(|| RawXid {
                device: data.device as usize,
                number: data.eventData,
                // All bits are set when it is not of a part.
                gpu_instance: (data.gpuInstanceId != u32::MAX).then_some(data.gpuInstanceId),
                compute_instance: (data.computeInstanceId != u32::MAX).then_some(data.computeInstanceId),
            })),
            TIMEOUT => Ok(None),
            code => Err(code),
        }
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
