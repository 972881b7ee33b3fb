//! V1: `{"instances": [row, …], …}` is answered by `{"predictions": [row, …], …}`.

use super::head::{Form, part};
use super::{Member, Mergeable, Slot, SplitError, json};
use bytes::Bytes;

pub(super) fn read(head: &[u8], body: Bytes) -> Option<Mergeable> {
    if !json::validate(&body) {
        return None;
    }
    let (fields, _) = json::fields(&body, 0)?;
    let mut key = head.to_vec();
    let mut rows = None;
    for field in &fields {
        let name = body.get(field.name.clone())?;
        part(&mut key, name);
        if name == b"instances" {
            let elements = json::elements(&body, field.value.start)?;
            let span = elements.first()?.start..elements.last()?.end;
            rows = Some((u32::try_from(elements.len()).ok()?, span));
        } else {
            part(&mut key, body.get(field.value.clone())?);
        }
    }
    let (rows, span) = rows?;
    Some(Mergeable {
        form: Form::V1,
        key: key.into(),
        rows,
        id: None,
        slots: vec![(span.clone(), Slot::Elements(0))],
        elements: vec![span],
        body,
    })
}

pub(super) fn split(members: &[Member], body: &[u8]) -> Result<Vec<Bytes>, SplitError> {
    if !json::validate(body) {
        return Err(SplitError::Shape);
    }
    let (fields, _) = json::fields(body, 0).ok_or(SplitError::Shape)?;
    let value = json::get(body, &fields, "predictions").ok_or(SplitError::Shape)?;
    let elements = json::elements(body, value.start).ok_or(SplitError::Shape)?;
    let sent = members.iter().map(|member| u64::from(member.rows)).sum();
    if elements.len() as u64 != sent {
        return Err(SplitError::Count { sent, received: elements.len() as u64 });
    }
    let before = body.get(..=value.start).unwrap_or_default();
    let after = body.get(value.end - 1..).unwrap_or_default();
    let mut rest = elements.as_slice();
    let mut out = Vec::with_capacity(members.len());
    for member in members {
        let (own, others) = rest.split_at_checked(member.rows as usize).ok_or(SplitError::Shape)?;
        rest = others;
        let span = match (own.first(), own.last()) {
            (Some(first), Some(last)) => body.get(first.start..last.end).unwrap_or_default(),
            _ => &[],
        };
        out.push(Bytes::from([before, span, after].concat()));
    }
    Ok(out)
}
