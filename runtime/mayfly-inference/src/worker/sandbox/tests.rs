//! What a locked-in process cannot do, tried from inside. The test binary starts itself again for that: the sandbox
//! holds for a whole process and for ever.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, kill_process, setrlimit};

use super::*;

const ROOM: &str = "MAYFLY_TEST_ROOM";

/// Runs `tests::NAME` of this module, which is ignored otherwise, in a process of its own with a room.
#[track_caller]
fn inside(name: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let room = folder.path().join("room");
    fs::create_dir(&room).expect("a room");
    fs::write(room.join("model"), "weights").expect("a file in it");
    fs::write(folder.path().join("secret"), "of the server").expect("a file beside it");
    let me = std::env::current_exe().expect("this binary");
    let test = format!("worker::sandbox::tests::{name}");
    let output = Command::new(me)
        .args(["--exact", &test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROOM, &room)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("all was tried"), "{:?}: {said}", output.status);
}

fn bounds(room: &Path) -> Bounds<'_> {
    let ort_dylib = Path::new("/nowhere/libonnxruntime.so");
    Bounds { room, ort_dylib, device: Device::Cpu, memory_bytes_max: 1 << 30, shared_bytes_max: 1 << 20 }
}

/// The room, if this is the process that [`inside`] started.
fn room() -> Option<std::path::PathBuf> {
    std::env::var_os(ROOM).map(Into::into)
}

#[test]
fn this_kernel_has_all_of_it() {
    assert_eq!(missing_from_sandbox(), Vec::<&str>::new());
    assert_eq!(accepted(SandboxPolicy::Required), Ok(()));
}

#[test]
fn nothing_but_its_work_is_left_to_a_worker() {
    inside("try_everything");
}

#[test]
#[ignore = "started by the test above, in a process of its own"]
#[expect(clippy::print_stdout, reason = "how it tells the test above")]
fn try_everything() {
    let Some(room) = room() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("outside there is a network");
    let address = listener.local_addr().expect("it has an address");
    // A descriptor that a server might have left open.
    let secret = room.parent().expect("it has one").join("secret");
    let left_open = File::open(&secret).expect("outside");
    let _left_open_too = std::mem::ManuallyDrop::new(listener);
    let left_open = std::mem::ManuallyDrop::new(left_open);

    alone().expect("it can be alone");
    enter(&bounds(&room)).expect("it can be entered");
    close(Device::Cpu).expect("it can be closed");

    let denied = |what: &str, done: bool| assert!(!done, "{what}");
    denied("a file that was left open", std::io::Read::read(&mut &*left_open, &mut [0]).is_ok());
    denied("connecting", TcpStream::connect(address).is_ok());
    denied("listening", TcpListener::bind("127.0.0.1:0").is_ok());
    denied("datagrams", UdpSocket::bind("127.0.0.1:0").is_ok());
    denied("a socket of the system's", std::os::unix::net::UnixDatagram::unbound().is_ok());
    denied("a program", Command::new("/bin/true").status().is_ok());
    denied("the server's files", fs::read(&secret).is_ok());
    denied("the system's files", fs::read("/etc/passwd").is_ok());
    denied("other processes", fs::read(format!("/proc/{}/environ", parent())).is_ok());
    denied("writing where it reads", fs::write(room.join("more"), "x").is_ok());
    denied("changing what it reads", fs::write(room.join("model"), "x").is_ok());
    denied("removing what it reads", fs::remove_file(room.join("model")).is_ok());
    denied("a way out", std::os::unix::fs::symlink(&secret, room.join("link")).is_ok());
    denied("signals to the server", kill_process(Pid::from_raw(parent()).expect("it is one"), Signal::CONT).is_ok());
    denied("more memory", setrlimit(Resource::Data, Rlimit { current: None, maximum: None }).is_ok());
    denied("memory files", rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).is_ok());
    let forked = {
        // SAFETY: the child, should there be one, ends at once.
        #[expect(unsafe_code, reason = "there is no safe fork")]
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the process, without running anything of it.
            #[expect(unsafe_code, reason = "there is no safe fork")]
            unsafe {
                libc::_exit(0);
            }
        }
        pid >= 0
    };
    denied("a process", forked);
    let refused = |call: libc::c_long| {
        // SAFETY: each of these calls reads or writes no memory of ours with these arguments.
        #[expect(unsafe_code, reason = "calls that nothing wraps")]
        let result = unsafe { libc::syscall(call, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64, 0_u64) };
        assert_eq!((result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)), "{call}");
    };
    let others = [libc::SYS_ptrace, libc::SYS_bpf, libc::SYS_io_uring_setup, libc::SYS_mount, libc::SYS_unshare];
    let more = [libc::SYS_setuid, libc::SYS_process_vm_readv, libc::SYS_userfaultfd, libc::SYS_perf_event_open];
    others.into_iter().chain(more).for_each(refused);

    assert_eq!(fs::read_to_string(room.join("model")).expect("its own files are there"), "weights");
    let sum = std::thread::spawn(|| (0..1000_u64).sum::<u64>()).join().expect("threads work");
    assert_eq!(sum, 499_500);
    let limit = |resource| getrlimit(resource).maximum;
    assert_eq!((limit(Resource::Core), limit(Resource::Fsize)), (Some(0), Some(1 << 20)));
    assert!(limit(Resource::Data).is_some_and(|most| most < 2 << 30) && limit(Resource::As).is_some());
    let status = fs::read_to_string("/proc/thread-self/status").expect("it may look at itself");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let huge = Vec::<u8>::new().try_reserve_exact(2 << 30);
    assert!(huge.is_err(), "memory has its limit");
    println!("all was tried");
}

/// A GPU's driver has what it needs, of which this machine may have none, and no more.
#[test]
fn a_gpu_opens_no_way_out() {
    inside("try_a_gpus");
}

#[test]
#[ignore = "started by the test above, in a process of its own"]
#[expect(clippy::print_stdout, reason = "how it tells the test above")]
fn try_a_gpus() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

    let Some(room) = room() else { return };
    let secret = room.parent().expect("it has one").join("secret");
    let listener = TcpListener::bind("127.0.0.1:0").expect("outside there is a network");
    let address = listener.local_addr().expect("it has an address");
    let _left_open = std::mem::ManuallyDrop::new(listener);
    alone().expect("it can be alone");
    enter(&Bounds { device: Device::Cuda, ..bounds(&room) }).expect("it can be entered");
    close(Device::Cuda).expect("it can be closed");

    // One thread names another.
    let (name, named) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel());
    let thread = std::thread::spawn(move || {
        named.0.send(rustix::thread::gettid().as_raw_nonzero()).expect("it is heard");
        let _ = name.1.recv();
    });
    let comm = format!("/proc/self/task/{}/comm", named.1.recv().expect("it says its id"));
    fs::write(&comm, "cuda-worker").expect("a thread has a name");
    assert_eq!(fs::read_to_string(&comm).expect("it can be read"), "cuda-worker\n");
    drop(name.0);
    thread.join().expect("it ends");

    // A socket that nobody can be reached with.
    let local = |kind| socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let socket = local(SocketType::SEQPACKET).expect("a socket");
    let there = SocketAddrUnix::new("/tmp/nvidia-mps/control").expect("an address");
    assert_eq!(connect(&socket, &there), Err(rustix::io::Errno::NOENT), "as if nobody shared the GPU");
    assert!(bind(&socket, &SocketAddrUnix::new(room.join("socket")).expect("an address")).is_err(), "no file");
    let unnamed = format!("mayfly-test-{}", std::process::id());
    bind(&socket, &SocketAddrUnix::new_abstract_name(unnamed.as_bytes()).expect("an address")).expect("a name");
    listen(&socket, 1).expect("it listens");
    assert!(rustix::net::accept(&socket).is_err(), "and serves nobody");

    let denied = |what: &str, done: bool| assert!(!done, "{what}");
    denied("a stream", local(SocketType::STREAM).is_ok());
    denied("datagrams", local(SocketType::DGRAM).is_ok());
    denied("connecting", TcpStream::connect(address).is_ok());
    denied("listening", TcpListener::bind("127.0.0.1:0").is_ok());
    denied("a program", Command::new("/bin/true").status().is_ok());
    denied("the server's files", fs::read(&secret).is_ok());
    denied("the system's files", fs::read("/etc/passwd").is_ok());
    denied("other processes", fs::read(format!("/proc/{}/cmdline", parent())).is_ok());
    denied("its settings", fs::write("/proc/self/oom_score_adj", "1").is_ok());
    denied("the system's settings", fs::write("/proc/sys/vm/overcommit_memory", "1").is_ok());
    denied("other devices", File::open("/dev/null").is_ok());
    denied("changing what it reads", fs::write(room.join("model"), "x").is_ok());
    assert_eq!(fs::read_to_string(room.join("model")).expect("its own files are there"), "weights");
    println!("all was tried");
}

fn parent() -> i32 {
    getppid().map_or(1, |pid| pid.as_raw_nonzero().get())
}

#[test]
fn a_process_goes_with_its_parent() {
    // The parent of the locked-in process is a thread of this one: it ends, and takes the process along.
    let folder = tempfile::tempdir().expect("a folder");
    let me = std::env::current_exe().expect("this binary");
    let room = folder.path().to_owned();
    let starter = std::thread::spawn(move || {
        let mut child = Command::new(me)
            .args(["--exact", "worker::sandbox::tests::wait_for_ever", "--ignored", "--nocapture"])
            .env(ROOM, &room)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("locked in") {
            line.clear();
            let read = std::io::BufRead::read_line(&mut said, &mut line).expect("it says something");
            assert!(read > 0, "it ended by itself");
        }
        child
    });
    let mut child = starter.join().expect("it ended well");
    let status = child.wait().expect("it ends");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL), "{status:?}");
}

#[test]
#[ignore = "started by the test above, in a process of its own"]
#[expect(clippy::print_stdout, reason = "how it tells the test above")]
fn wait_for_ever() {
    let Some(room) = room() else { return };
    alone().expect("it can be alone");
    enter(&bounds(&room)).expect("it can be entered");
    println!("locked in");
    std::thread::sleep(std::time::Duration::from_secs(600));
}
