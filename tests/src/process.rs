//! What /proc says about a process.

use std::fs;

/// Processor time of a process in clock ticks (user and system, all threads).
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    // The command name may hold spaces and parentheses: count from its end.
    let rest = stat.rsplit_once(')').expect("a stat line").1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |i: usize| fields[i].parse::<u64>().expect("a number");
    number(11) + number(12)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("a living process");
    let pages = text.split_whitespace().nth(1).expect("a second number");
    pages.parse::<u64>().expect("a number") * 4096
}

/// Number of open descriptors of a process.
pub fn fd_count(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("a living process of ours")
        .count()
}

/// Acts as another user. Only root can; in a thread, because the raw call changes that thread alone.
pub fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            // SAFETY: a system call on integers.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(done, 0, "setresuid");
            act()
        });
        other.join().expect("the other user's part")
    })
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Lets a process run on one CPU only, or on all.
pub fn bind(pid: u32, cpu: Option<usize>) {
    // SAFETY: zeros are a valid set; it lives in this frame.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match cpu {
            Some(cpu) => libc::CPU_SET(cpu, &mut set),
            None => (0..1024).for_each(|cpu| libc::CPU_SET(cpu, &mut set)),
        }
        // A machine with one CPU has no second one; then nothing changes.
        libc::sched_setaffinity(pid as i32, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// A pipe with a name: who reads it sees the end when the file is dropped.
#[track_caller]
pub fn fifo(path: &std::path::Path) -> std::fs::File {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0, "mkfifo");
    let both = std::fs::File::options().read(true).write(true).open(path);
    both.expect("the pipe just made")
}

/// Whether the process waits for something at this moment.
pub fn sleeps(pid: u32) -> bool {
    is(pid, 'S')
}

/// Whether it stands still.
pub fn stopped(pid: u32) -> bool {
    is(pid, 'T')
}

fn is(pid: u32, state: char) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| rest.starts_with(state))
}
