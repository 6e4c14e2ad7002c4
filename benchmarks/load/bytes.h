// Bytes on the wire: big-endian integers, and just enough protobuf to write requests and to read answers in place.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

using Bytes = std::string;

// A load that went wrong measures nothing: say why and stop.
[[noreturn]] inline void fail(const std::string& why) {
  std::fprintf(stderr, "load: %s\n", why.c_str());
  std::exit(1);
}

inline void put_u32(Bytes& out, uint32_t value) {
  const char bytes[4] = {char(value >> 24), char(value >> 16), char(value >> 8), char(value)};
  out.append(bytes, 4);
}

inline uint32_t get_u32(const char* at) {
  const auto* p = reinterpret_cast<const uint8_t*>(at);
  return uint32_t(p[0]) << 24 | uint32_t(p[1]) << 16 | uint32_t(p[2]) << 8 | p[3];
}

inline void put_varint(Bytes& out, uint64_t value) {
  for (; value > 127; value >>= 7) out.push_back(char(value | 128));
  out.push_back(char(value));
}

inline size_t varint_size(uint64_t value) {
  size_t size = 1;
  for (; value > 127; value >>= 7) size++;
  return size;
}

constexpr uint32_t kVarint = 0;
constexpr uint32_t kLengthDelimited = 2;

inline void put_field(Bytes& out, uint32_t number, uint64_t value) {
  put_varint(out, number << 3 | kVarint);
  put_varint(out, value);
}

// The head of a field of `size` bytes, which the caller appends.
inline void put_head(Bytes& out, uint32_t number, size_t size) {
  put_varint(out, number << 3 | kLengthDelimited);
  put_varint(out, size);
}

inline void put_field(Bytes& out, uint32_t number, std::string_view value) {
  put_head(out, number, value.size());
  out.append(value);
}

// What gRPC puts before every message: not compressed, and its size.
inline void put_prefix(Bytes& out, size_t message_size) {
  out.push_back('\0');
  put_u32(out, uint32_t(message_size));
}

inline void put_message(Bytes& out, std::string_view message) {
  put_prefix(out, message.size());
  out.append(message);
}

// Reads the fields of a message, or the elements of a packed field, where they lie.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  bool more() const { return at_ < end_; }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; at_ < end_ && shift < 64; shift += 7) {
      const auto byte = uint8_t(*at_++);
      value |= uint64_t(byte & 127) << shift;
      if (byte < 128) return value;
    }
    fail("an answer is not protobuf: a number ends early");
  }

  // Reads the next field: its number; its value is in `value` or, when it has a length, in `bytes`.
  uint32_t field() {
    const uint64_t tag = varint();
    switch (tag & 7) {
      case kVarint: value = varint(); bytes = {}; break;
      case kLengthDelimited: bytes = take(varint()); break;
      case 1: bytes = take(8); break;
      case 5: bytes = take(4); break;
      default: fail("an answer is not protobuf: unknown wire type");
    }
    return uint32_t(tag >> 3);
  }

  uint64_t value = 0;
  std::string_view bytes;

 private:
  std::string_view take(uint64_t size) {
    if (size > size_t(end_ - at_)) fail("an answer is not protobuf: a field ends early");
    std::string_view taken(at_, size);
    at_ += size;
    return taken;
  }

  const char* at_;
  const char* end_;
};
