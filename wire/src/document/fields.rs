//! Which fields a type has at a path: asked of the type itself, by deserialising it from nothing but the path.

use super::index::Step;
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The names of the fields of the struct at this path of `T`; empty where no struct stands there.
pub(super) fn at<T: DeserializeOwned>(path: &[Step]) -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    // It always ends with an error: nothing on the way has a value.
    let _ended = T::deserialize(Probe { path, found: &mut found });
    found
}

/// The end of a probe.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ended")
    }
}

impl std::error::Error for Ended {}

impl de::Error for Ended {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

struct Probe<'a> {
    path: &'a [Step],
    found: &'a mut &'static [&'static str],
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Ended;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        match self.path.split_first() {
            Some((Step::Key(key), path)) => {
                visitor.visit_map(Way { key: Some(key), below: Probe { path, found: self.found } })
            }
            Some((Step::Item(_), path)) => {
                visitor.visit_seq(Way { key: None, below: Probe { path, found: self.found } })
            }
            None => Err(Ended),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        if self.path.is_empty() {
            *self.found = fields;
            return Err(Ended);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map enum identifier ignored_any
    }
}

/// A map or list with one entry: the next step of the path.
struct Way<'a> {
    key: Option<&'a str>,
    below: Probe<'a>,
}

impl<'de> MapAccess<'de> for Way<'_> {
    type Error = Ended;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Ended> {
        match self.key.take() {
            Some(key) => seed.deserialize(de::value::StrDeserializer::new(key)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Ended> {
        seed.deserialize(Probe { path: self.below.path, found: self.below.found })
    }
}

impl<'de> SeqAccess<'de> for Way<'_> {
    type Error = Ended;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Ended> {
        seed.deserialize(Probe { path: self.below.path, found: self.below.found }).map(Some)
    }
}
