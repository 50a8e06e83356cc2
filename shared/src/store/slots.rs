//! Which node of a cluster serves which slot: the rules of the cluster specification, without any I/O.

use redis::Value;

use super::address::Address;

/// Number of hash slots in a Redis cluster.
pub(super) const SLOTS: u16 = 16_384;

/// A range of slots, both ends included, and the master that serves it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
}

/// Returns the slot of a key: CRC-16 of the hash tag, or of the whole key if it has no tag.
pub(super) fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// Returns the ranges in a reply to CLUSTER SLOTS that came from `asked`. A range without a usable master is left out.
pub(super) fn ranges(reply: &Value, asked: &Address) -> Vec<Range> {
    let Value::Array(ranges) = reply else {
        return Vec::new();
    };
    ranges
        .iter()
        .filter_map(|range| read(range, asked))
        .collect()
}

fn read(range: &Value, asked: &Address) -> Option<Range> {
    let Value::Array(parts) = range else {
        return None;
    };
    let [
        Value::Int(first),
        Value::Int(last),
        Value::Array(master),
        ..,
    ] = parts.as_slice()
    else {
        return None;
    };
    let [host, Value::Int(port), ..] = master.as_slice() else {
        return None;
    };
    let host = match host {
        Value::Nil => "",
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => return None,
    };
    // The node does not know the other's name.
    if host == "?" {
        return None;
    }
    let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOTS);
    Some(Range {
        first: slot(*first)?,
        last: slot(*last)?,
        master: asked.neighbour(host, u16::try_from(*port).ok()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
            tls: true,
        }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let replica = Value::Array(vec![text("replica"), Value::Int(1), text("id")]);
        let master = Value::Array(vec![
            host,
            Value::Int(port),
            text("id"),
            Value::Array(vec![]),
        ]);
        Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 12_739);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("chat:{foo}:x:messages"), 12_182);
        assert_eq!(
            slot("foo{}"),
            crc16::State::<crc16::XMODEM>::calculate(b"foo{}") % SLOTS
        );
    }

    #[test]
    fn a_map_is_read_and_what_cannot_be_used_is_left_out() {
        let reply = Value::Array(vec![
            range(0, 99, text("a.example"), 7000),
            range(100, 199, Value::Nil, 7001),
            range(200, 299, text(""), 7002),
            range(300, 399, text("?"), 7003),
            range(400, 70_000, text("a.example"), 7000),
            Value::Array(vec![Value::Int(1)]),
        ]);
        let masters: Vec<_> = ranges(&reply, &at("seed.example", 6379))
            .into_iter()
            .map(|range| (range.first, range.master))
            .collect();
        assert_eq!(
            masters,
            [
                (0, at("a.example", 7000)),
                (100, at("seed.example", 7001)),
                (200, at("seed.example", 7002)),
            ]
        );
        assert_eq!(ranges(&Value::Nil, &at("seed.example", 6379)), []);
    }
}
