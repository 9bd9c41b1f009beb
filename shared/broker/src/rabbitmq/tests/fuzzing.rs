//! Arbitrary bytes as a message in a queue, whose publisher may be any program.
//!
//! lapin has already parsed the frames. The bytes therefore choose properties and headers: each
//! header is a name, a type and a value, until `0`.

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use roundtrip_model::Clock;

use super::wire;
use crate::{Message, Queue};

/// The header names that the decoder reads; the input can also spell its own.
const NAMES: [&str; 9] = [
    wire::ATTEMPTS,
    wire::REPLAY_COUNT,
    wire::ACCEPTED_AT,
    wire::DEAD_KIND,
    wire::DEAD_DETAIL,
    wire::X_DEATH,
    "queue",
    "reason",
    "traceparent",
];

/// How deep tables and arrays nest; lapin's frame size bounds it in practice.
const MAX_NESTING: u8 = 8;

/// The message that is decoded from it.
pub fn message(input: &[u8], clock: &dyn Clock) -> Message {
    let mut input = Input(input);
    let queue = Queue::ALL[usize::from(input.byte()) % Queue::ALL.len()];
    let has = input.byte();
    let mut properties = BasicProperties::default();
    if has & 1 != 0 {
        properties = properties.with_message_id(input.short());
    }
    if has & 2 != 0 {
        properties = properties.with_timestamp(u64::from_be_bytes(input.array()));
    }
    if has & 4 != 0 {
        properties = properties.with_headers(input.table(0));
    }
    let body = input.0.to_vec();
    let mut delivery = Delivery::mock(1, "".into(), "".into(), false, body);
    delivery.properties = properties;
    wire::decode(delivery, queue, clock)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Zeroes after the end of the input.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    fn bytes(&mut self) -> &'a [u8] {
        let count = self.byte();
        self.take(count.into())
    }

    fn short(&mut self) -> ShortString {
        let text = String::from_utf8_lossy(self.bytes());
        let cut = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
        cut.into()
    }

    fn table(&mut self, depth: u8) -> FieldTable {
        let mut table = FieldTable::default();
        loop {
            let name = match self.byte() {
                0 => return table,
                known if usize::from(known) <= NAMES.len() => NAMES[usize::from(known) - 1].into(),
                _ => self.short(),
            };
            table.insert(name, self.value(depth));
        }
    }

    fn value(&mut self, depth: u8) -> AMQPValue {
        match self.byte() % 16 {
            0 => AMQPValue::Boolean(self.byte() != 0),
            1 => AMQPValue::ShortShortInt(i8::from_be_bytes(self.array())),
            2 => AMQPValue::ShortShortUInt(self.byte()),
            3 => AMQPValue::ShortInt(i16::from_be_bytes(self.array())),
            4 => AMQPValue::ShortUInt(u16::from_be_bytes(self.array())),
            5 => AMQPValue::LongInt(i32::from_be_bytes(self.array())),
            6 => AMQPValue::LongUInt(u32::from_be_bytes(self.array())),
            7 => AMQPValue::LongLongInt(i64::from_be_bytes(self.array())),
            8 => AMQPValue::Double(f64::from_be_bytes(self.array())),
            9 => AMQPValue::ShortString(self.short()),
            10 => AMQPValue::Timestamp(u64::from_be_bytes(self.array())),
            11 => AMQPValue::ByteArray(self.bytes().into()),
            12 if depth < MAX_NESTING => AMQPValue::FieldTable(self.table(depth + 1)),
            13 if depth < MAX_NESTING => {
                let count = self.byte() % 8;
                let values: Vec<_> = (0..count).map(|_| self.value(depth + 1)).collect();
                AMQPValue::FieldArray(FieldArray::from(values))
            }
            14 => AMQPValue::Void,
            _ => AMQPValue::LongString(self.bytes().to_vec().into()),
        }
    }
}
