//! The `fanfare` binary: everything is in the library's [`fanfare::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fanfare::cli::run(release_memory)
}

/// Gives memory that has been free for a second back to the kernel, whichever thread freed it. The allocator does it
/// by itself only when a thread happens to allocate in a rare way, which reactors that have become quiet do not.
fn release_memory() {
    // SAFETY: it takes no pointer, and looks at the calling thread's own blocks and at what belongs to none.
    unsafe { libmimalloc_sys::mi_collect(false) };
}
