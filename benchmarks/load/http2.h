// The client's half of gRPC over HTTP/2 (RFC 9113), without TLS: streams, frames and flow control over one socket.
//
// It does little on purpose: no header compression beyond the static table, no priorities, no push. What it does is
// right for messages of any size: what the peer's windows do not allow waits in the stream's queue.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bytes.h"

class Connection {
 public:
  // Who hears of what comes in; streams are numbered from 0 in the order in which they were opened.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void received(Connection& connection, int stream, std::string_view message) = 0;
    // The server ended the stream; `trailers` are its undecoded last headers.
    virtual void ended(Connection& connection, int stream, std::string_view trailers) = 0;
  };

  // Connects to a port of this machine and announces itself to `epoll` with `tag`.
  Connection(int epoll, uint32_t tag, uint16_t port, Listener& listener);
  Connection(const Connection&) = delete;
  ~Connection();

  uint32_t tag() const { return tag_; }

  int open_stream(std::string_view path);
  // Messages, each after its gRPC prefix.
  void send(int stream, std::string_view messages);
  // Nothing more is sent on the stream after what is queued.
  void half_close(int stream);

  // Hands to the socket what it takes.
  void flush();
  // Reads what the socket has, and tells the listener.
  void read();

 private:
  struct Stream {
    int64_t window = 0;  // what the peer still takes
    Bytes queue;         // what has no window yet, from `queued` on
    size_t queued = 0;
    bool end_after_queue = false;
    Bytes partial;  // of a message
    size_t unreported = 0;
  };

  void put_frame_head(size_t size, uint8_t type, uint8_t flags, uint32_t stream_id);
  void put_window_update(uint32_t stream_id, size_t bytes);
  // Frames as much as the windows allow; how much that was.
  size_t put_data(int stream, std::string_view bytes);
  void send_queued(int stream);
  void send_all_queued();
  void parse();
  void control_frame(uint8_t type, uint8_t flags, uint32_t stream_id, std::string_view payload);
  void settings(std::string_view payload);
  void data(Stream& stream, int index, std::string_view bytes);
  Stream& find(uint32_t stream_id, const char* what);

  const int epoll_;
  const uint32_t tag_;
  const int socket_;
  Listener& listener_;
  std::vector<Stream> streams_;
  int64_t window_ = 65'535;
  int64_t initial_stream_window_ = 65'535;
  size_t max_frame_ = 16'384;
  size_t unreported_ = 0;

  Bytes out_;
  size_t written_ = 0;
  bool waits_to_write_ = false;

  std::vector<char> in_;
  size_t filled_ = 0;
  // Of the DATA frame that is being read.
  size_t data_left_ = 0;
  uint32_t data_stream_ = 0;
  bool data_ends_ = false;
};
