//! A JSON value that decodes into structs with Go's habits.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

/// Why a value is not what was wanted, and where within the document.
#[derive(Debug)]
pub(super) struct Error {
    /// From the innermost to the outermost.
    path: Vec<Segment>,
    why: String,
}

/// A step into an object or an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

impl Error {
    /// From the document's root on.
    pub(super) fn path(&self) -> impl Iterator<Item = &Segment> {
        self.path.iter().rev()
    }

    fn within(mut self, segment: Segment) -> Self {
        self.path.push(segment);
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for segment in self.path() {
            match segment {
                Segment::Key(key) => write!(f, "{separator}{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
            separator = ".";
        }
        // The document itself has no name: a missing key says its own.
        write!(f, "{}{}", if self.path.is_empty() { "" } else { ": " }, self.why)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: Display>(why: T) -> Self {
        Self { path: Vec::new(), why: why.to_string() }
    }
}

/// Decodes a value; what lies within is decoded in the same way.
#[derive(Clone, Copy)]
pub(super) struct Lenient<'a>(pub &'a Value);

impl<'de> Deserializer<'de> for Lenient<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(_) => self.0.deserialize_any(visitor).map_err(Error::custom),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(items) => visitor.visit_seq(Items { rest: items.iter().enumerate() }),
            Value::Object(members) => visitor.visit_map(Members::all(members)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(members) => visitor.visit_map(Members::of(members, fields)),
            Value::Null => visitor.visit_map(Members::default()),
            // Go does not decode an array into a struct; serde would.
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor).map_err(Error::custom)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de> {
    rest: std::iter::Enumerate<std::slice::Iter<'de, Value>>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Lenient(value)).map(Some).map_err(|error| error.within(Segment::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The members of an object: all of them, or those that a struct knows, under the struct's own names.
#[derive(Default)]
struct Members<'de> {
    rest: std::vec::IntoIter<(&'de str, &'de Value)>,
    next: Option<(&'de str, &'de Value)>,
}

impl<'de> Members<'de> {
    fn all(object: &'de Map<String, Value>) -> Self {
        let members: Vec<(&str, &Value)> = object.iter().map(|(key, value)| (key.as_str(), value)).collect();
        Self { rest: members.into_iter(), next: None }
    }

    fn of(object: &'de Map<String, Value>, fields: &'static [&'static str]) -> Self {
        let mut members: Vec<(&str, &Value)> = Vec::new();
        for (key, value) in object {
            let known = if fields.contains(&key.as_str()) {
                Some(key.as_str())
            } else {
                fields
                    .iter()
                    .find(|field| field.eq_ignore_ascii_case(key))
                    .filter(|field| !object.contains_key(**field))
                    .copied()
            };
            let Some(field) = known else { continue };
            if value.is_null() {
                continue;
            }
            members.retain(|(earlier, _)| *earlier != field);
            members.push((field, value));
        }
        Self { rest: members.into_iter(), next: None }
    }
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.next = Some((key, value));
        let key: StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.next.take().unwrap_or(("", &Value::Null));
        seed.deserialize(Lenient(value)).map_err(|error| error.within(Segment::Key(key.to_owned())))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}
