//! The pause program: waits, so that a pod's network lives while its containers come and go. `cargo xtask cluster`
//! compiles this file alone.

fn main() {
    loop {
        std::thread::park();
    }
}
