//! The layers of a request's way, in order. Each is a line of [`Gateway::answer`] with the reason why it stands
//! where it stands; what they do lives in their own files.

use crate::attempt::Served;
use crate::config::Limits;
use crate::intake;
use crate::own;
use crate::record::Record;
use crate::send::Errand;
use crate::thread::{Buffered, Local, Thread, View};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use outrigger_dataplane::body::{Body, ErrorEvent};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::serve::{Connection, Request, Service};
use outrigger_decide::ask::{self, Ask};
use outrigger_decide::balance::LOAD_HEADER;
use outrigger_decide::key;
use outrigger_decide::protocol::Protocol;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const REQUEST_ID: HeaderName = HeaderName::from_static(key::REQUEST_ID);

/// One data thread's service.
#[derive(Debug)]
pub(crate) struct Gateway {
    thread: Rc<Thread>,
    limits: Limits,
}

type Answer = Result<Response<Body<Served>>, Refusal>;

impl Gateway {
    /// The service of this thread.
    pub(crate) fn new(thread: Rc<Thread>, limits: Limits) -> Rc<Self> {
        Rc::new(Self { thread, limits })
    }

    async fn answer(&self, request: Request, connection: Rc<Connection>, id: &HeaderValue) -> Answer {
        let protocol = Protocol::of(request.uri().path());
        // First of all a bound on how much there is at once: everything below holds memory.
        let full =
            || Refusal::shed("gateway_full", "too many requests are in flight", Duration::from_secs(1));
        let admitted = self.thread.admit(self.limits.max_in_flight).ok_or_else(full)?;
        let (mut head, body) = request.into_parts();
        // Before the side is chosen, which may depend on it; every attempt carries the same one.
        head.headers.insert(REQUEST_ID, id.clone());
        // Before the body: most of what is refused is refused by path and method alone, without reading on.
        let (named, at) = match ask::ask(&head.method, head.uri.path()).map_err(own::no_ask)? {
            Ask::ByBody => (None, None),
            Ask::ByPath { model, at, .. } => (Some(model), Some(at)),
            Ask::Models => return own::models(&self.thread.view().snapshot),
            Ask::Model(name) => return own::model(&self.thread.view().snapshot, &name),
            Ask::Own(question) => return own::own(question, &self.thread.view().snapshot),
        };
        // A name in the path is looked up before the body, so that nobody uploads megabytes for a 404.
        if let Some(name) = &named {
            find(&self.thread.view(), name)?;
        }
        let room = self.thread.buffered(connection);
        self.infer(head, (body, room), named.zip(at), protocol, admitted).await
    }

    async fn infer(
        &self,
        mut head: Parts,
        (body, mut room): (Incoming, Buffered),
        named: Option<(String, Range<usize>)>,
        protocol: Protocol,
        admitted: crate::thread::Admitted,
    ) -> Answer {
        if named.is_none() {
            readable(&head)?;
        }
        let mut intake = intake::read(body, named.is_none(), &self.limits, &mut room).await?;
        // After the body, however long that took to come: the request goes by the routes as they are now.
        let view = self.thread.view();
        let (local, rename) = match (&named, &intake.model) {
            (Some((name, _)), _) => find(&view, name)?,
            (None, Some(model)) => find(&view, &model.name)?,
            (None, None) => return Err(Refusal::bad("model_invalid", "the body has no `model`")),
        };
        if let Some(name) = rename {
            match &named {
                Some((_, at)) => head.uri = renamed(&head.uri, at, &name)?,
                None => intake.rename(&name),
            }
        }
        let length = intake.length;
        let errand = Errand::new(&self.thread, local, &head, intake.into_body(), length);
        let (response, attempt) = errand.run().await?;
        let on_error = ErrorEvent::of(protocol);
        let served = Served::new(attempt, admitted);
        Ok(response.map(|body| Body::<()>::upstream(body, on_error).with_hooks(served)))
    }
}

impl Service for Gateway {
    type Hooks = Served;

    async fn call(self: Rc<Self>, request: Request, connection: Rc<Connection>) -> Response<Body<Served>> {
        let protocol = Protocol::of(request.uri().path());
        let id = self.request_id(request.headers());
        // The one place where what went wrong becomes a response.
        let mut response = self.answer(request, connection, &id).await.unwrap_or_else(|refusal| {
            self.thread.tell(Record::Refused { reason: refusal.reason });
            refusal.response(protocol)
        });
        let headers = response.headers_mut();
        // Whatever the answer is, it can be found again by this.
        headers.insert(REQUEST_ID, id);
        // Between gateways and sidecars only.
        headers.remove(LOAD_HEADER);
        response
    }
}

impl Gateway {
    fn request_id(&self, headers: &http::HeaderMap) -> HeaderValue {
        let given = key::given_request_id(headers).and_then(|id| HeaderValue::from_bytes(id).ok());
        given.unwrap_or_else(|| {
            let made = key::made_request_id(self.thread.random_id());
            // Hexadecimal digits are always a header's value.
            HeaderValue::from_bytes(&made).unwrap_or_else(|_| HeaderValue::from_static("-"))
        })
    }
}

/// The deployment of a name, and the engines' name where another one was asked for.
fn find(view: &View, name: &str) -> Result<(Rc<Local>, Option<Arc<str>>), Refusal> {
    own::known(&view.snapshot)?;
    let named = view.snapshot.names.find(name).ok_or_else(|| own::no_model(&view.snapshot, name))?;
    let local = view.deployment(named.target).ok_or_else(|| own::no_model(&view.snapshot, name))?;
    Ok((Rc::clone(local), named.rename.clone()))
}

/// A compressed body can't be looked into.
fn readable(head: &Parts) -> Result<(), Refusal> {
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let message = "the body is compressed; allowed: none or `identity` as content-encoding";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding_unsupported", message))
}

/// The address with the name in its path replaced.
fn renamed(uri: &Uri, at: &Range<usize>, name: &str) -> Result<Uri, Refusal> {
    let path = ask::rename(uri.path(), at, name);
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    let wrong = |_| Refusal::bad("model_invalid", "the model's name can't stand in a path");
    parts.path_and_query = Some(PathAndQuery::try_from(path).map_err(wrong)?);
    Uri::from_parts(parts)
        .map_err(|_| Refusal::bad("model_invalid", "the model's name can't stand in a path"))
}
