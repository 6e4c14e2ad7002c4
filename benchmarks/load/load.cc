// A load generator that costs little enough not to be what is measured: one thread, one message in flight a lane,
// messages made ahead, HTTP/2 without a library.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <random>

#include "cpu.h"
#include "http2.h"
#include "options.h"
#include "window.h"
#include "wire.h"

namespace {

constexpr uint32_t kStdin = UINT32_MAX;
constexpr double kPatience = 30;  // seconds without a byte while something is owed

class Load : public Connection::Listener {
 public:
  Load(const Options& options, std::unique_ptr<Wire> wire)
      : options_(options), wire_(std::move(wire)), epoll_(epoll_create1(0)), lanes_(size_t(options.lanes())),
        streams_(size_t(options.streams)) {
    fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u32 = kStdin;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0)
      fail("standard input cannot be waited for; give a pipe or a terminal, as in: echo 0.5 2 | load ...");
    for (int i = 0; i < options.connections; i++)
      connections_.push_back(std::make_unique<Connection>(epoll_, uint32_t(i), options.port, *this));
    for (int stream = 0; stream < options.streams; stream++) {
      Connection& connection = connection_of(stream);
      connection.open_stream(wire_->path());
      begin(stream);
    }
  }

  void run() {
    last_byte_ = now();
    while (phase_ != Phase::kDone) {
      const double time = now();
      advance(time);
      send_due(time);
      for (auto& connection : connections_) connection->flush();
      wait(time);
    }
  }

  void received(Connection& connection, int index, std::string_view message) override {
    const Wire::Received received = wire_->receive(stream_of(connection, index), message);
    if (received.kind == Wire::Kind::kBegin) begin(stream_of(connection, index));
    if (received.kind == Wire::Kind::kReady) stream_ready();
    if (received.kind == Wire::Kind::kAnswered) answered(received.lane);
  }

  void ended(Connection& connection, int index, std::string_view trailers) override {
    const int stream = stream_of(connection, index);
    if (phase_ != Phase::kEnding || streams_[stream].lanes_left > 0)
      fail("the server ended stream " + std::to_string(stream) + " early; see its log. Its last headers: " +
           printable(trailers));
    wire_->end(stream);
    if (++streams_ended_ == options_.streams) phase_ = Phase::kDone;
  }

 private:
  enum class Phase { kOpening, kIdle, kWarmUp, kMeasure, kDrain, kEnding, kDone };
  struct Lane {
    double since = 0;  // when the message in flight was sent, or was due
    long sent = 0;     // in this window
    bool busy = false;
  };
  struct Stream {
    int lanes_left = 0;  // that have not ended
  };
  struct Usage {
    double time, server, client;
  };

  // ---- Streams ---------------------------------------------------------------------------------

  Connection& connection_of(int stream) { return *connections_[stream % options_.connections]; }

  int stream_of(const Connection& connection, int index) const {
    return index * options_.connections + int(connection.tag());
  }

  void begin(int stream) {
    Bytes first;
    const bool ready = wire_->begin(stream, first);
    connection_of(stream).send(stream / options_.connections, first);
    if (ready) stream_ready();
  }

  void stream_ready() {
    if (++streams_ready_ == options_.streams) phase_ = Phase::kIdle;
  }

  static std::string printable(std::string_view bytes) {
    std::string text(bytes);
    std::replace_if(text.begin(), text.end(), [](char c) { return c < 32 || c > 126; }, '.');
    return text;
  }

  // ---- Lanes -----------------------------------------------------------------------------------

  void send(int lane, double since) {
    const int stream = lane / options_.in_flight;
    message_.clear();
    wire_->next(lane, message_);
    lanes_[lane].since = since;
    lanes_[lane].sent++;
    if (!lanes_[lane].busy) busy_++;
    lanes_[lane].busy = true;
    request_bytes_ += message_.size();
    requests_++;
    connection_of(stream).send(stream / options_.connections, message_);
  }

  void answered(int number) {
    Lane& lane = lanes_[number];
    if (phase_ == Phase::kEnding) return lane_ended(number);
    if (!lane.busy) fail("lane " + std::to_string(number) + " was answered twice");
    const double time = now();
    if (phase_ == Phase::kMeasure) {
      outcome_.messages++;
      outcome_.latencies.push_back(float(time - lane.since));
    }
    const bool more = window_.count ? lane.sent < window_.count : phase_ != Phase::kDrain;
    if (more && window_.rate > 0) {
      const double due = lane.since + period_;
      if (due <= time) return send(number, due);
      due_.push({due, number});
    } else if (more) {
      return send(number, time);
    }
    lane.busy = false;
    busy_--;
  }

  void lane_ended(int number) {
    const int stream = number / options_.in_flight;
    if (--streams_[stream].lanes_left == 0) connection_of(stream).half_close(stream / options_.connections);
  }

  void send_due(double time) {
    while (!due_.empty() && due_.top().first <= time) {
      const auto [due, lane] = due_.top();
      due_.pop();
      send(lane, due);
    }
  }

  // ---- Windows ---------------------------------------------------------------------------------

  void advance(double time) {
    if (phase_ == Phase::kIdle && !lines_.empty()) begin_window(time);
    if (phase_ == Phase::kIdle && input_ended_ && lines_.empty()) end_lanes();
    if (phase_ == Phase::kWarmUp && time >= begins_) begin_measuring();
    if (phase_ == Phase::kMeasure && (window_.count ? busy_ == 0 : time >= begins_ + window_.seconds)) end_measuring();
    if (phase_ == Phase::kDrain && busy_ == 0) {
      phase_ = Phase::kIdle;
      std::puts(outcome_.to_json().c_str());
      std::fflush(stdout);
    }
    if (phase_ != Phase::kIdle && time - last_byte_ > kPatience) fail("the server has sent nothing for 30 s");
  }

  void begin_window(double time) {
    window_ = Window::parse(lines_.front());
    lines_.pop_front();
    processes_ = with_descendants(options_.pids);
    begins_ = last_byte_ = time;
    begins_ += window_.warm_up;
    period_ = window_.rate > 0 ? options_.lanes() / window_.rate : 0;
    phase_ = Phase::kWarmUp;
    for (Lane& lane : lanes_) lane.sent = 0;
    if (window_.count) begin_measuring();
    for (int lane = 0; lane < options_.lanes(); lane++) {
      if (window_.rate > 0)
        due_.push({time + period_ * lane / options_.lanes(), lane});
      else
        send(lane, now());
    }
  }

  void begin_measuring() {
    phase_ = Phase::kMeasure;
    outcome_ = Outcome();
    outcome_.latencies.reserve(1 << 16);
    request_bytes_ = requests_ = 0;
    begin_ = usage();
  }

  void end_measuring() {
    const Usage end = usage();
    phase_ = Phase::kDrain;
    due_ = {};
    outcome_.seconds = end.time - begin_.time;
    outcome_.steps = outcome_.messages * options_.sessions * options_.steps;
    outcome_.server_cpu = end.server - begin_.server;
    outcome_.client_cpu = end.client - begin_.client;
    outcome_.request_bytes = requests_ ? request_bytes_ / requests_ : 0;
    if (window_.rate == 0) return;
    for (const Lane& lane : lanes_)
      if (lane.busy) outcome_.backlog += 1 + long((end.time - lane.since) / period_);
  }

  Usage usage() { return {now(), cpu_seconds(processes_), own_cpu_seconds()}; }

  void end_lanes() {
    phase_ = Phase::kEnding;
    last_byte_ = now();
    for (Stream& stream : streams_) stream.lanes_left = options_.in_flight;
    for (int lane = 0; lane < options_.lanes(); lane++) {
      const int stream = lane / options_.in_flight;
      message_.clear();
      if (wire_->last(lane, message_))
        connection_of(stream).send(stream / options_.connections, message_);
      else
        lane_ended(lane);
    }
  }

  // ---- Waiting ---------------------------------------------------------------------------------

  // Whether `advance` has something to do at once.
  bool pending() const {
    return (phase_ == Phase::kIdle && (!lines_.empty() || input_ended_)) || (phase_ == Phase::kDrain && busy_ == 0);
  }

  void wait(double time) {
    if (phase_ == Phase::kDone || pending()) return;
    double longest = 1;
    if (!due_.empty()) longest = std::min(longest, due_.top().first - time);
    if (phase_ == Phase::kWarmUp) longest = std::min(longest, begins_ - time);
    if (phase_ == Phase::kMeasure && !window_.count) longest = std::min(longest, begins_ + window_.seconds - time);
    longest = std::max(longest, 0.0);
    const timespec timeout{time_t(longest), long((longest - double(time_t(longest))) * 1e9)};
    epoll_event events[64];
    const int count = epoll_pwait2(epoll_, events, 64, &timeout, nullptr);
    if (count < 0 && errno != EINTR) fail(std::string("epoll_pwait2: ") + strerror(errno));
    for (int i = 0; i < count; i++) {
      if (events[i].data.u32 == kStdin) {
        read_lines();
        continue;
      }
      last_byte_ = time;
      Connection& connection = *connections_[events[i].data.u32];
      if (events[i].events & EPOLLOUT) connection.flush();
      if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) connection.read();
    }
  }

  void read_lines() {
    char buffer[4096];
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      input_ended_ = true;
      epoll_ctl(epoll_, EPOLL_CTL_DEL, STDIN_FILENO, nullptr);
      return;
    }
    input_.append(buffer, size_t(n));
    for (size_t end; (end = input_.find('\n')) != Bytes::npos; input_.erase(0, end + 1))
      lines_.push_back(input_.substr(0, end));
  }

  using Due = std::pair<double, int>;

  const Options options_;
  const std::unique_ptr<Wire> wire_;
  const int epoll_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Lane> lanes_;
  std::vector<Stream> streams_;
  Phase phase_ = Phase::kOpening;
  int streams_ready_ = 0;
  int streams_ended_ = 0;
  int busy_ = 0;
  double last_byte_ = 0;
  Bytes message_;

  Bytes input_;
  std::deque<std::string> lines_;
  bool input_ended_ = false;

  Window window_;
  Outcome outcome_;
  std::vector<pid_t> processes_;
  double begins_ = 0;
  double period_ = 0;
  Usage begin_{};
  size_t request_bytes_ = 0;
  size_t requests_ = 0;
  std::priority_queue<Due, std::vector<Due>, std::greater<Due>> due_;
};

std::unique_ptr<Wire> make_wire(const Options& options) {
  if (options.wire == "opaque") return make_opaque_wire(options);
  if (options.wire == "inference") return make_inference_wire(options);
  if (options.wire == "gatestream") return make_gatestream_wire(options);
  fail("no wire is called '" + options.wire + "'; expected opaque, inference or gatestream");
}

}  // namespace

Bytes random_rows(const Options& options, size_t rows, unsigned seed) {
  std::mt19937 random(seed);
  Bytes bytes;
  if (options.tokens) {
    std::uniform_int_distribution<int64_t> token(0, options.tokens - 1);
    for (size_t i = 0; i < rows; i++) {
      const int64_t value = token(random);
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    return bytes;
  }
  std::uniform_real_distribution<float> number(-2, 2);
  for (size_t i = 0; i < rows * size_t(options.features); i++) {
    const float value = number(random);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  return bytes;
}

int main(int count, char** arguments) {
  const Options options = parse_options(count, arguments);
  Load(options, make_wire(options)).run();
}
