//! The programs that are measured: started on free ports, watched in /proc, ended by their own process id.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take until it listens.
const START: Duration = Duration::from_secs(10);

/// A running program. Its drop ends it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Program {
    /// Starts it and waits until `address` takes connections.
    pub fn start(name: &str, command: &mut Command, address: &str) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let mut this = Self { name: name.to_owned(), child, address: address.to_owned() };
        let end = Instant::now() + START;
        while std::net::TcpStream::connect(address).is_err() {
            if let Some(status) = this.child.try_wait()? {
                bail!("{name} ended at its start ({status}): {command:?}");
            }
            if Instant::now() > end {
                bail!("{name} doesn't listen on {address} after {START:?}: {command:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Processor time of it and of its children (nginx's worker is one), in seconds.
    pub fn cpu(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.family()? {
            sum += cpu(pid)?;
        }
        Ok(sum)
    }

    /// The same to the nanosecond, for programs that hardly run: the scheduler's own count of each thread.
    pub fn precise_cpu(&self) -> Result<f64> {
        let mut nanos = 0.0;
        for pid in self.family()? {
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
                let ran = stat.split(' ').next().context("an empty schedstat")?;
                nanos += ran.parse::<f64>()?;
            }
        }
        Ok(nanos / 1e9)
    }

    /// Resident memory of it and of its children, in MiB; pages that they share count for each.
    pub fn memory(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.family()? {
            sum += resident(pid, "VmRSS")?;
        }
        Ok(sum)
    }

    fn family(&self) -> Result<Vec<u32>> {
        let pid = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut family = vec![pid];
        for child in children.split_whitespace() {
            family.push(child.parse()?);
        }
        Ok(family)
    }
}

/// Memory of a process in MiB: `VmRSS`, what is resident now, or `VmHWM`, the most that ever was.
pub fn resident(pid: u32, which: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let line = line.with_context(|| format!("no {which}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}

/// User and system time of a process in seconds, in ticks of 10 ms.
pub fn cpu(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |n: usize| -> Result<f64> { Ok(fields.get(n).context("too few fields")?.parse()?) };
    // utime and stime are the 14th and 15th; two stand before the closing parenthesis.
    let ticks = field(11)? + field(12)?;
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

impl Drop for Program {
    fn drop(&mut self) {
        // A clean end first: nginx's worker would outlive a killed master for a moment.
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + Duration::from_secs(2);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A loopback address with a port that was free a moment ago.
pub fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// A program of this workspace, built in release beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = this.parent().unwrap_or(Path::new(".")).join(name);
    if !path.exists() {
        bail!("{} is not there; build it first: cargo build --release -p {name}", path.display());
    }
    Ok(path)
}

/// The stub, on a processor thread of its own process.
pub fn stub() -> Result<Program> {
    let address = free_address()?;
    Program::start("stub", Command::new(std::env::current_exe()?).args(["stub", &address]), &address)
}

/// The floor: bare hyper with hyper-util's client, one thread.
pub fn floor(upstream: &str) -> Result<Program> {
    let address = free_address()?;
    let mut command = Command::new(sibling("outrigger-floor")?);
    Program::start("floor", command.args([&address, upstream, "1"]), &address)
}

/// Debian's nginx with one worker, configured as a streaming proxy with kept connections. `None` when it is not
/// installed.
pub fn nginx(upstream: &str, dir: &Path) -> Result<Option<Program>> {
    let binary = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
    let Some(binary) = binary else { return Ok(None) };
    let address = free_address()?;
    let at = dir.display();
    let config = format!(
        "worker_processes 1; worker_rlimit_nofile 8192; pid {at}/nginx.pid; error_log {at}/error.log warn; daemon \
         off;\nevents {{ worker_connections 4096; }}\nhttp {{\n access_log off; keepalive_requests 100000000; \
         keepalive_timeout 600s;\n client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; \
         fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n upstream stub {{ \
         server {upstream}; keepalive 256; keepalive_requests 100000000; }}\n server {{ listen {address} \
         backlog=4096;\n  location / {{ proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header \
         Connection \"\"; proxy_buffering off; client_max_body_size 64m; }} }} }}\n"
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config)?;
    let error_log = dir.join("error.log");
    let mut command = Command::new(binary);
    // -e: before it has read the configuration, too.
    command.arg("-p").arg(dir).arg("-e").arg(&error_log).arg("-c").arg(&path);
    let started = Program::start("nginx", &mut command, &address).map_err(|e| {
        let log = std::fs::read_to_string(&error_log).unwrap_or_default();
        e.context(log)
    })?;
    Ok(Some(started))
}
