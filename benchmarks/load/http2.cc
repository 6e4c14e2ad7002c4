#include "http2.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

namespace {

enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kResetStream = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};
constexpr uint8_t kAck = 1, kEndStream = 1, kEndHeaders = 4, kPadded = 8;
constexpr uint16_t kInitialWindowSize = 4, kMaxFrameSize = 5;

constexpr size_t kHead = 9;
constexpr uint32_t kLargestWindow = 0x7fffffff;
// The frame size that gRPC's own clients ask for.
constexpr uint32_t kOurMaxFrame = 4 << 20;
// Windows are topped up when so much has come in.
constexpr size_t kReportEvery = 1 << 20;
constexpr size_t kReadBuffer = 1 << 18;

int connect_to(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    fail("cannot connect to 127.0.0.1:" + std::to_string(port) + ": " + strerror(errno));
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

void put_setting(Bytes& out, uint16_t name, uint32_t value) {
  out.push_back(char(name >> 8));
  out.push_back(char(name));
  put_u32(out, value);
}

// HPACK literal without indexing; sizes below 127 only, which all of ours are.
void put_string(Bytes& out, std::string_view text) {
  if (text.size() > 126) fail("the path is too long");
  out.push_back(char(text.size()));
  out.append(text);
}

void put_header(Bytes& out, uint8_t static_name, std::string_view value) {
  if (static_name < 15) {
    out.push_back(char(static_name));
  } else {
    out.push_back(15);
    out.push_back(char(static_name - 15));
  }
  put_string(out, value);
}

// Numbers of HPACK's static table (RFC 7541, appendix A).
constexpr char kMethodPost = char(0x83), kSchemeHttp = char(0x86);
constexpr uint8_t kAuthority = 1, kPath = 4, kContentType = 31;

}  // namespace

Connection::Connection(int epoll, uint32_t tag, uint16_t port, Listener& listener)
    : epoll_(epoll), tag_(tag), socket_(connect_to(port)), listener_(listener), in_(kReadBuffer) {
  out_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  Bytes settings;
  put_setting(settings, kInitialWindowSize, kLargestWindow);
  put_setting(settings, kMaxFrameSize, kOurMaxFrame);
  put_frame_head(settings.size(), kSettings, 0, 0);
  out_ += settings;
  put_window_update(0, kLargestWindow - 65'535);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u32 = tag_;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, socket_, &event);
}

Connection::~Connection() { close(socket_); }

int Connection::open_stream(std::string_view path) {
  Bytes headers;
  headers.push_back(kMethodPost);
  headers.push_back(kSchemeHttp);
  put_header(headers, kPath, path);
  put_header(headers, kAuthority, "localhost");
  put_header(headers, kContentType, "application/grpc");
  headers.push_back('\0');
  put_string(headers, "te");
  put_string(headers, "trailers");

  const int index = int(streams_.size());
  streams_.emplace_back();
  streams_.back().window = initial_stream_window_;
  put_frame_head(headers.size(), kHeaders, kEndHeaders, uint32_t(2 * index + 1));
  out_ += headers;
  return index;
}

void Connection::send(int stream, std::string_view messages) {
  Stream& s = streams_[stream];
  const bool queue_empty = s.queued == s.queue.size();
  const size_t sent = queue_empty ? put_data(stream, messages) : 0;
  if (sent < messages.size()) s.queue.append(messages.substr(sent));
}

void Connection::half_close(int stream) {
  streams_[stream].end_after_queue = true;
  send_queued(stream);
}

size_t Connection::put_data(int stream, std::string_view bytes) {
  Stream& s = streams_[stream];
  size_t sent = 0;
  while (sent < bytes.size()) {
    const int64_t allowed = std::min({int64_t(bytes.size() - sent), s.window, window_, int64_t(max_frame_)});
    if (allowed <= 0) break;
    put_frame_head(size_t(allowed), kData, 0, uint32_t(2 * stream + 1));
    out_.append(bytes.substr(sent, size_t(allowed)));
    s.window -= allowed;
    window_ -= allowed;
    sent += size_t(allowed);
  }
  return sent;
}

void Connection::send_queued(int stream) {
  Stream& s = streams_[stream];
  s.queued += put_data(stream, std::string_view(s.queue).substr(s.queued));
  if (s.queued < s.queue.size()) return;
  s.queue.clear();
  s.queued = 0;
  if (s.end_after_queue) {
    put_frame_head(0, kData, kEndStream, uint32_t(2 * stream + 1));
    s.end_after_queue = false;
  }
}

void Connection::send_all_queued() {
  for (size_t i = 0; i < streams_.size() && window_ > 0; i++)
    if (!streams_[i].queue.empty()) send_queued(int(i));
}

void Connection::put_frame_head(size_t size, uint8_t type, uint8_t flags, uint32_t stream_id) {
  put_u32(out_, uint32_t(size) << 8 | type);
  out_.push_back(char(flags));
  put_u32(out_, stream_id);
}

void Connection::put_window_update(uint32_t stream_id, size_t bytes) {
  put_frame_head(4, kWindowUpdate, 0, stream_id);
  put_u32(out_, uint32_t(bytes));
}

void Connection::flush() {
  while (written_ < out_.size()) {
    const ssize_t n = ::write(socket_, out_.data() + written_, out_.size() - written_);
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) fail(std::string("cannot write to the server: ") + strerror(errno));
    written_ += size_t(n);
  }
  const bool waits = written_ < out_.size();
  if (!waits) {
    out_.clear();
    written_ = 0;
  }
  if (waits == waits_to_write_) return;
  waits_to_write_ = waits;
  epoll_event event{};
  event.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.u32 = tag_;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_, &event);
}

void Connection::read() {
  const ssize_t n = ::read(socket_, in_.data() + filled_, in_.size() - filled_);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) fail("the server closed the connection; see its log");
  filled_ += size_t(n);
  parse();
}

void Connection::parse() {
  size_t at = 0;
  while (true) {
    if (data_left_ > 0) {
      const size_t size = std::min(data_left_, filled_ - at);
      if (size == 0) break;
      data(find(data_stream_, "DATA"), int(data_stream_ / 2), {in_.data() + at, size});
      at += size;
      data_left_ -= size;
      if (data_left_ > 0) break;
    }
    if (data_ends_) {
      data_ends_ = false;
      listener_.ended(*this, int(data_stream_ / 2), {});
    }
    if (filled_ - at < kHead) break;
    const uint32_t word = get_u32(in_.data() + at);
    const size_t size = word >> 8;
    const auto type = uint8_t(word);
    const auto flags = uint8_t(in_[at + 4]);
    const uint32_t stream_id = get_u32(in_.data() + at + 5) & kLargestWindow;
    if (type == kData) {
      if (flags & kPadded) fail("the server pads its frames, which is not expected of gRPC");
      data_left_ = size;
      data_stream_ = stream_id;
      data_ends_ = flags & kEndStream;
      at += kHead;
      continue;
    }
    if (kHead + size > in_.size()) fail("the server sent a control frame of " + std::to_string(size) + " bytes");
    if (filled_ - at < kHead + size) break;
    control_frame(type, flags, stream_id, {in_.data() + at + kHead, size});
    at += kHead + size;
  }
  std::copy(in_.begin() + long(at), in_.begin() + long(filled_), in_.begin());
  filled_ -= at;
}

void Connection::control_frame(uint8_t type, uint8_t flags, uint32_t stream_id, std::string_view payload) {
  if (type == kSettings && !(flags & kAck)) {
    settings(payload);
    put_frame_head(0, kSettings, kAck, 0);
  } else if (type == kPing && !(flags & kAck)) {
    put_frame_head(payload.size(), kPing, kAck, 0);
    out_.append(payload);
  } else if (type == kWindowUpdate) {
    const uint32_t more = get_u32(payload.data()) & kLargestWindow;
    if (stream_id == 0) {
      window_ += more;
      send_all_queued();
    } else {
      find(stream_id, "WINDOW_UPDATE").window += more;
      send_queued(int(stream_id / 2));
    }
  } else if (type == kHeaders && (flags & kEndStream)) {
    find(stream_id, "HEADERS");
    listener_.ended(*this, int(stream_id / 2), payload);
  } else if (type == kResetStream && get_u32(payload.data()) != 0) {
    // With code 0 it follows the trailers of a stream that the server ended first.
    fail("the server reset a stream with code " + std::to_string(get_u32(payload.data())));
  } else if (type == kGoAway) {
    fail("the server sent GOAWAY: " + Bytes(payload.substr(std::min<size_t>(8, payload.size()))));
  }
}

void Connection::settings(std::string_view payload) {
  for (size_t at = 0; at + 6 <= payload.size(); at += 6) {
    const uint32_t name = get_u32(payload.data() + at) >> 16;
    const uint32_t value = get_u32(payload.data() + at + 2);
    if (name == kMaxFrameSize) max_frame_ = value;
    if (name == kInitialWindowSize) {
      for (Stream& s : streams_) s.window += int64_t(value) - initial_stream_window_;
      initial_stream_window_ = value;
    }
  }
  send_all_queued();
}

void Connection::data(Stream& s, int index, std::string_view bytes) {
  unreported_ += bytes.size();
  s.unreported += bytes.size();
  if (unreported_ >= kReportEvery) {
    put_window_update(0, unreported_);
    unreported_ = 0;
  }
  if (s.unreported >= kReportEvery) {
    put_window_update(uint32_t(2 * index + 1), s.unreported);
    s.unreported = 0;
  }
  if (!s.partial.empty()) {
    s.partial.append(bytes);
    bytes = s.partial;
  }
  while (bytes.size() >= 5) {
    if (bytes[0] != 0) fail("the server compresses its answers; start it without compression");
    const size_t size = get_u32(bytes.data() + 1);
    if (bytes.size() < 5 + size) break;
    listener_.received(*this, index, bytes.substr(5, size));
    bytes.remove_prefix(5 + size);
  }
  // `bytes` may lie in `partial` itself.
  if (s.partial.empty())
    s.partial.assign(bytes);
  else
    s.partial.erase(0, s.partial.size() - bytes.size());
}

Connection::Stream& Connection::find(uint32_t stream_id, const char* what) {
  if (stream_id % 2 == 0 || stream_id / 2 >= streams_.size())
    fail(std::string("the server sent ") + what + " for a stream that was never opened");
  return streams_[stream_id / 2];
}
