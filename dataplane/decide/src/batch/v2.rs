//! V2 (Open Inference) with tensors as JSON: the first dimension of every tensor is the row.
//!
//! `data` may be flat in row-major order or nested as deep as the shape; a request is merged with others of the
//! same layout only, and an answer may have either.

use super::head::{Form, part};
use super::{Member, Mergeable, Slot, SplitError, json};
use bytes::Bytes;
use std::ops::Range;

/// A tensor's shape and where its rows stand.
struct Tensor {
    /// The first number of its shape.
    rows: u64,
    /// Where that number stands.
    rows_at: Range<usize>,
    /// All dimensions but the first.
    inner: Vec<u64>,
    /// Each element of `data`: a number, or a row where it is nested.
    elements: Vec<Range<usize>>,
    /// Where `data` stands, brackets included.
    data: Range<usize>,
    nested: bool,
}

impl Tensor {
    fn read(text: &[u8], fields: &[json::Field]) -> Option<Self> {
        let shape_at = json::get(text, fields, "shape")?;
        let shape = json::elements(text, shape_at.start)?;
        let (rows_at, inner) = shape.split_first()?;
        let number = |range: &Range<usize>| json::count(text.get(range.clone())?);
        let rows = number(rows_at)?;
        let inner: Vec<u64> = inner.iter().map(number).collect::<Option<_>>()?;
        let data = json::get(text, fields, "data")?.clone();
        let elements = json::elements(text, data.start)?;
        let nested = elements.first().is_some_and(|first| text.get(first.start) == Some(&b'['));
        Some(Self { rows, rows_at: rows_at.clone(), inner, elements, data, nested })
    }

    /// How many elements of `data` make a row.
    fn per_row(&self) -> Option<u64> {
        if self.nested {
            Some(1)
        } else {
            self.inner.iter().try_fold(1u64, |product, n| product.checked_mul(*n))
        }
    }

    /// How many rows `data` really has; `None` where it is no whole number of them.
    fn rows_of_data(&self) -> Option<u64> {
        let elements = self.elements.len() as u64;
        match self.per_row()? {
            0 => (elements == 0).then_some(self.rows),
            per_row => elements.is_multiple_of(per_row).then_some(elements / per_row),
        }
    }
}

pub(super) fn read(head: &[u8], body: Bytes) -> Option<Mergeable> {
    if !json::validate(&body) {
        return None;
    }
    let (fields, _) = json::fields(&body, 0)?;
    let mut request = Reading { key: head.to_vec(), rows: None, slots: Vec::new(), elements: Vec::new() };
    let mut id = None;
    for (index, field) in fields.iter().enumerate() {
        let name = body.get(field.name.clone())?;
        if name == b"id" {
            let is_text = body.get(field.value.start) == Some(&b'"');
            id = is_text.then(|| field.value.clone());
            id.as_ref()?;
            request.slots.push((omission(&fields, index)?, Slot::Omitted));
            continue;
        }
        part(&mut request.key, name);
        let value = body.get(field.value.clone())?;
        match name {
            b"inputs" => request.inputs(&body, field.value.start)?,
            _ if wants_binary(value) => return None,
            _ => part(&mut request.key, value),
        }
    }
    let rows = u32::try_from(request.rows?).ok()?;
    let Reading { key, slots, elements, .. } = request;
    Some(Mergeable { form: Form::V2, key: key.into(), rows, id, slots, elements, body })
}

/// A request while it is read.
struct Reading {
    key: Vec<u8>,
    /// The rows of the tensors so far: all have the same.
    rows: Option<u64>,
    slots: Vec<(Range<usize>, Slot)>,
    elements: Vec<Range<usize>>,
}

impl Reading {
    fn inputs(&mut self, text: &[u8], at: usize) -> Option<()> {
        let inputs = json::elements(text, at)?;
        part(&mut self.key, &(inputs.len() as u64).to_le_bytes());
        for input in inputs {
            let (fields, _) = json::fields(text, input.start)?;
            let tensor = Tensor::read(text, &fields)?;
            let agrees = self.rows.is_none_or(|rows| rows == tensor.rows);
            if tensor.rows == 0 || !agrees || tensor.rows_of_data() != Some(tensor.rows) {
                return None;
            }
            self.rows = Some(tensor.rows);
            self.input(text, &fields, &tensor)?;
        }
        Some(())
    }

    fn input(&mut self, text: &[u8], fields: &[json::Field], tensor: &Tensor) -> Option<()> {
        part(&mut self.key, &(fields.len() as u64).to_le_bytes());
        for field in fields {
            let name = text.get(field.name.clone())?;
            part(&mut self.key, name);
            match name {
                b"shape" => {
                    for n in &tensor.inner {
                        part(&mut self.key, &n.to_le_bytes());
                    }
                    self.slots.push((tensor.rows_at.clone(), Slot::Rows));
                }
                b"data" => {
                    part(&mut self.key, &[u8::from(tensor.nested)]);
                    let span = tensor.elements.first()?.start..tensor.elements.last()?.end;
                    self.slots.push((span.clone(), Slot::Elements(self.elements.len())));
                    self.elements.push(span);
                }
                _ => {
                    let value = text.get(field.value.clone())?;
                    if wants_binary(value) {
                        return None;
                    }
                    part(&mut self.key, value);
                }
            }
        }
        Some(())
    }
}

/// Whether parameters ask for tensors behind the JSON (`binary_data`, `binary_data_output`, `binary_data_size`),
/// which can't be taken apart here. Triton's own client says `"binary_data": false` with every tensor.
fn wants_binary(value: &[u8]) -> bool {
    memchr::memmem::find_iter(value, b"\"binary_data").any(|at| {
        let rest = value.get(at + 1..).unwrap_or_default();
        let mut parts = rest.splitn(2, |byte| *byte == b'"');
        let (_name, after) = (parts.next(), parts.next().unwrap_or_default());
        let after = after.trim_ascii_start().strip_prefix(b":").unwrap_or_default().trim_ascii_start();
        !after.starts_with(b"false")
    })
}

/// The place of a field together with one of the commas beside it. `None`: it is the only field.
fn omission(fields: &[json::Field], index: usize) -> Option<Range<usize>> {
    let field = fields.get(index)?;
    // A name stands without its quotes, so its field begins one before.
    match index.checked_sub(1).and_then(|before| fields.get(before)) {
        Some(before) => Some(before.value.end..field.value.end),
        None => Some(field.name.start - 1..fields.get(index + 1)?.name.start - 1),
    }
}

/// A place in an answer that differs between its callers.
enum Hole {
    /// The caller's own `id`.
    Id,
    /// How many rows are its own.
    Rows,
    /// Its rows of this tensor.
    Data(usize),
}

pub(super) fn split(members: &[Member], body: &[u8]) -> Result<Vec<Bytes>, SplitError> {
    if !json::validate(body) {
        return Err(SplitError::Shape);
    }
    let sent = members.iter().map(|member| u64::from(member.rows)).sum();
    let (fields, _) = json::fields(body, 0).ok_or(SplitError::Shape)?;
    let mut holes: Vec<(Range<usize>, Hole)> = Vec::new();
    let mut tensors = Vec::new();
    if let Some(id) = json::get(body, &fields, "id") {
        holes.push((id.clone(), Hole::Id));
    }
    let outputs = json::get(body, &fields, "outputs").ok_or(SplitError::Shape)?;
    for output in json::elements(body, outputs.start).ok_or(SplitError::Shape)? {
        let (fields, _) = json::fields(body, output.start).ok_or(SplitError::Shape)?;
        let tensor = Tensor::read(body, &fields).ok_or(SplitError::Shape)?;
        if tensor.rows != sent {
            return Err(SplitError::Count { sent, received: tensor.rows });
        }
        let received = tensor.rows_of_data().ok_or(SplitError::Shape)?;
        if received != sent {
            return Err(SplitError::Count { sent, received });
        }
        holes.push((tensor.rows_at.clone(), Hole::Rows));
        holes.push((tensor.data.start + 1..tensor.data.end - 1, Hole::Data(tensors.len())));
        tensors.push(tensor);
    }
    if tensors.is_empty() {
        return Err(SplitError::Count { sent, received: 0 });
    }
    holes.sort_by_key(|(range, _)| range.start);
    let mut from = 0u64;
    let mut out = Vec::with_capacity(members.len());
    for member in members {
        out.push(fill(body, &holes, &tensors, member, from).ok_or(SplitError::Shape)?);
        from += u64::from(member.rows);
    }
    Ok(out)
}

/// One caller's answer; `first` is the first of its rows.
fn fill(
    body: &[u8],
    holes: &[(Range<usize>, Hole)],
    tensors: &[Tensor],
    member: &Member,
    first: u64,
) -> Option<Bytes> {
    let rows = member.rows.to_string();
    let mut out = Vec::with_capacity(body.len() / 8 + 64);
    let mut from = 0;
    if let Some(id) = &member.id
        && !holes.iter().any(|(_, hole)| matches!(hole, Hole::Id))
    {
        let open = json::blank(body, 0) + 1;
        out.extend_from_slice(body.get(..open)?);
        out.extend_from_slice(b"\"id\":");
        out.extend_from_slice(id);
        out.push(b',');
        from = open;
    }
    for (range, hole) in holes {
        out.extend_from_slice(body.get(from..range.start)?);
        let kept = body.get(range.clone())?;
        let filling = match hole {
            Hole::Id => member.id.as_deref().unwrap_or(kept),
            Hole::Rows => rows.as_bytes(),
            Hole::Data(tensor) => rows_of(body, tensors.get(*tensor)?, first, member.rows)?,
        };
        out.extend_from_slice(filling);
        from = range.end;
    }
    out.extend_from_slice(body.get(from..)?);
    Some(out.into())
}

fn rows_of<'a>(body: &'a [u8], tensor: &Tensor, first: u64, rows: u32) -> Option<&'a [u8]> {
    let per_row = tensor.per_row()?;
    let from = usize::try_from(first.checked_mul(per_row)?).ok()?;
    let length = usize::try_from(u64::from(rows).checked_mul(per_row)?).ok()?;
    let own = tensor.elements.get(from..from.checked_add(length)?)?;
    match (own.first(), own.last()) {
        (Some(first), Some(last)) => body.get(first.start..last.end),
        _ => Some(&[]),
    }
}
