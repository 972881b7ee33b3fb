//! The difference of two JSON documents as a JSON patch (RFC 6902) that can be applied to a third: the API server's
//! own copy, in which there may be fields that this program doesn't know. So it is as small as can be, and an item
//! of a list is never turned into another one.

use serde_json::{Value, json};

/// The operations that make `after` of `before`.
pub fn between(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(before, after, &mut String::new(), &mut operations);
    operations
}

fn compare(before: &Value, after: &Value, path: &mut String, to: &mut Vec<Value>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let at = path.len();
                enter(path, key);
                match new.get(key) {
                    Some(new) => compare(value, new, path, to),
                    None => to.push(json!({"op": "remove", "path": path.as_str()})),
                }
                path.truncate(at);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                let at = path.len();
                enter(path, key);
                to.push(json!({"op": "add", "path": path.as_str(), "value": value}));
                path.truncate(at);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            if !items(old, new, path, to) {
                to.push(json!({"op": "replace", "path": path.as_str(), "value": after}));
            }
        }
        _ => to.push(json!({"op": "replace", "path": path.as_str(), "value": after})),
    }
}

/// Compares two lists item by item where that is possible without mistaking one item for another: equal ones at both
/// ends, and between them pairs of the same name, followed by what was added or removed.
fn items(old: &[Value], new: &[Value], path: &mut String, to: &mut Vec<Value>) -> bool {
    let front = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (old.get(front..).unwrap_or_default(), new.get(front..).unwrap_or_default());
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let old = old.get(..old.len() - back).unwrap_or_default();
    let new = new.get(..new.len() - back).unwrap_or_default();
    if !old.iter().zip(new).all(|(old, new)| same(old, new)) {
        return false;
    }
    let paired = old.len().min(new.len());
    let at = path.len();
    for (i, (old, new)) in old.iter().zip(new).enumerate() {
        enter(path, &(front + i).to_string());
        compare(old, new, path, to);
        path.truncate(at);
    }
    for _ in paired..old.len() {
        to.push(json!({"op": "remove", "path": format!("{path}/{}", front + paired)}));
    }
    for (i, value) in new.iter().enumerate().skip(paired) {
        to.push(json!({"op": "add", "path": format!("{path}/{}", front + i), "value": value}));
    }
    true
}

/// Whether one may have become the other: texts may, and things of the same name, or of the same number where they
/// have none.
fn same(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let by = |key: &str| old.get(key).is_some() && old.get(key) == new.get(key);
            by("name") || by("containerPort")
        }
        (old, new) => old.is_string() && new.is_string(),
    }
}

fn enter(path: &mut String, key: &str) {
    path.push('/');
    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests {
    use super::between;
    use serde_json::{Value, json};

    fn applied(before: &Value, after: &Value, to: &Value) -> Value {
        let mut document = to.clone();
        let patch: json_patch::Patch = serde_json::from_value(between(before, after).into()).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        document
    }

    #[test]
    fn fields_that_are_not_known_stay_with_their_items() {
        let before = json!({"c": [{"name": "a"}, {"name": "b", "x": 1}], "e": {}, "gone": 1});
        let theirs = json!({"c": [{"name": "a", "new": 1}, {"name": "b", "x": 1, "new": 2}], "e": {}, "gone": 1, "n": 3});
        let after = json!({"c": [{"name": "o"}, {"name": "a"}, {"name": "b", "x": 2}], "e": {"a/b~c": 1}});
        // `o` and `a` are not the same, so the list can only be replaced.
        assert_eq!(applied(&before, &after, &before), after);
        let after = json!({"c": [{"name": "a"}, {"name": "b", "x": 2}, {"name": "o"}], "e": {"a/b~c": 1}});
        let expected = json!({
            "c": [{"name": "a", "new": 1}, {"name": "b", "x": 2, "new": 2}, {"name": "o"}],
            "e": {"a/b~c": 1}, "n": 3,
        });
        assert_eq!(applied(&before, &after, &theirs), expected);
    }

    #[test]
    fn what_is_made_of_it_is_what_was_wanted() {
        let values = [
            json!(null),
            json!([]),
            json!(["a", "b"]),
            json!(["b"]),
            json!(["a", "c", "d", "b"]),
            json!([{"containerPort": 1, "name": "x"}, {"containerPort": 2}]),
            json!([{"containerPort": 1}]),
            json!([{"containerPort": 2, "name": "y"}, {"containerPort": 3}]),
            json!({"k": [1, 2]}),
            json!({"k": [2, 1], "l": null}),
        ];
        for before in &values {
            for after in &values {
                let (before, after) = (json!({"v": before}), json!({"v": after}));
                assert_eq!(applied(&before, &after, &before), after);
            }
        }
    }
}
