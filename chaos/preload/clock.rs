//! Preloaded into a node: its wall clock is off by as much as a file says.
//!
//! The file, which `CHAOS_CLOCK` names, holds a number of milliseconds, and is mapped, so that it
//! may change while the node runs. Clocks that only measure time are left alone.

use std::{
    ffi::{CStr, c_char, c_int, c_long, c_void},
    ptr::{self, null_mut},
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

#[repr(C)]
pub struct Time {
    seconds: c_long,
    /// Nano- or microseconds.
    part: c_long,
}

const REALTIME: c_int = 0;
const REALTIME_COARSE: c_int = 5;
const NEXT: *mut c_void = -1_isize as *mut c_void;
const READ: c_int = 1;
const SHARED: c_int = 1;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn mmap(
        at: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: c_long,
    ) -> *mut c_void;
}

type ClockGettime = unsafe extern "C" fn(c_int, *mut Time) -> c_int;

fn real() -> ClockGettime {
    static REAL: OnceLock<ClockGettime> = OnceLock::new();
    *REAL.get_or_init(|| {
        // Safety: libc has it, with this signature.
        let found = unsafe { dlsym(NEXT, c"clock_gettime".as_ptr()) };
        assert!(!found.is_null(), "libc has a clock");
        unsafe { std::mem::transmute::<*mut c_void, ClockGettime>(found) }
    })
}

/// By how much the clock is off. Never unmapped.
fn skew_ms() -> i64 {
    static FILE: OnceLock<Option<&'static AtomicI64>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        // Safety: as the system's manual has it; the mapping is as long as what is read of it.
        unsafe {
            let path = getenv(c"CHAOS_CLOCK".as_ptr());
            if path.is_null() || CStr::from_ptr(path).is_empty() {
                return None;
            }
            let file = open(path, 0);
            let mapped = mmap(null_mut(), size_of::<AtomicI64>(), READ, SHARED, file, 0);
            (mapped as isize != -1).then(|| &*ptr::with_exposed_provenance(mapped as usize))
        }
    });
    file.map_or(0, |file| file.load(Ordering::Relaxed))
}

/// Safety: `time` is what a call of the clock filled in.
unsafe fn shift(time: *mut Time, part_per_ms: i64) {
    let skew_ms = skew_ms();
    if skew_ms == 0 || time.is_null() {
        return;
    }
    let per_second = 1_000 * part_per_ms;
    let time = unsafe { &mut *time };
    let total = i128::from(time.seconds) * i128::from(per_second)
        + i128::from(time.part)
        + i128::from(skew_ms) * i128::from(part_per_ms);
    time.seconds = total.div_euclid(i128::from(per_second)) as c_long;
    time.part = total.rem_euclid(i128::from(per_second)) as c_long;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Time) -> c_int {
    let result = unsafe { real()(clock, time) };
    if result == 0 && matches!(clock, REALTIME | REALTIME_COARSE) {
        unsafe { shift(time, 1_000_000) };
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut Time, _zone: *mut c_void) -> c_int {
    if time.is_null() {
        return 0;
    }
    let result = unsafe { clock_gettime(REALTIME, time) };
    unsafe { (*time).part /= 1_000 };
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(seconds: *mut c_long) -> c_long {
    let mut now = Time { seconds: 0, part: 0 };
    unsafe { clock_gettime(REALTIME, &raw mut now) };
    if !seconds.is_null() {
        unsafe { *seconds = now.seconds };
    }
    now.seconds
}
