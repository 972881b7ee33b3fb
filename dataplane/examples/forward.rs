//! The smallest forwarder: `forward LISTEN UPSTREAM [THREADS]`.

use http::Response;
use outrigger_dataplane::body::{Body, ErrorEvent};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::serve::{Connection, Request, ServeOptions, Service};
use outrigger_dataplane::signals::Signals;
use outrigger_dataplane::threads::{Bound, DataThreads};
use outrigger_dataplane::upstream::{Endpoint, PoolOptions, RequestBody, Timeouts};
use outrigger_decide::protocol::Protocol;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

struct Forward {
    to: Rc<Endpoint>,
    timeouts: Timeouts,
}

impl Service for Forward {
    type Hooks = ();

    async fn call(self: Rc<Self>, request: Request, _connection: Rc<Connection>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let protocol = Protocol::of(head.uri.path());
        let mut body = RequestBody::streamed(body);
        match self.to.send(&head, &mut body, &self.timeouts, Instant::now()).await {
            Ok(answer) => answer.map(|body| Body::upstream(body, ErrorEvent::of(protocol))),
            Err(error) => Refusal::from(&error).response(protocol),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().ok_or("usage: forward LISTEN UPSTREAM [THREADS]")?.parse()?;
    let upstream = args.next().ok_or("no upstream: host:port")?;
    let threads = args.next().map_or(Ok(1), |n| n.parse())?;
    let data = DataThreads::start(Bound::bind(listen)?, threads, ServeOptions::default(), move |_| {
        Rc::new(Forward {
            to: Endpoint::new(&upstream, PoolOptions::default()),
            timeouts: Timeouts::default(),
        })
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        signals.next().await;
        signals.drain(&data, Duration::from_secs(10)).await;
        Ok(())
    })
}
