// gatestream.v1. Field numbers: protos/gatestream/v1/gatestream.proto.
#include <algorithm>

#include "wire.h"

namespace {

// ClientMessage, Open, Steps
constexpr uint32_t kOpen = 1, kSteps = 2;
constexpr uint32_t kOpenHandle = 1, kOpenModel = 3, kOpenMode = 5, kOpenGates = 7, kOpenOnDisconnect = 9;
constexpr uint64_t kModeCreate = 1, kOnDisconnectPark = 1;
// ServerMessage, Opened, Results, Closed, Error, Durable
constexpr uint32_t kOpened = 1, kResults = 2, kClosed = 4, kError = 5, kDurable = 7;
constexpr uint32_t kErrorReason = 5, kErrorMessage = 6;
// Steps, Results
constexpr uint32_t kHandle = 1, kLength = 2, kFirst = 3, kColumn = 4, kGate = 5;

// Sessions of a stream that are asked for at once: those that are being opened cannot give up their slots.
constexpr int kOpening = 1000;

class GatestreamWire : public Wire {
 public:
  // Handles on a stream: lane by lane, in it block by block, in it the sessions; then the idle ones.
  explicit GatestreamWire(const Options& options)
      : options_(options),
        of_lane_(options.blocks * options.sessions),
        active_(of_lane_ * options.in_flight),
        streams_(size_t(options.streams)),
        lanes_(size_t(options.lanes())) {
    for (Stream& stream : streams_) stream.position.assign(size_t(active_), 0);
    const auto rows = size_t(options.sessions) * size_t(options.steps);
    if (options.steps > 1) {
      Bytes lengths;
      for (int k = 0; k < options.sessions; k++) put_varint(lengths, uint64_t(options.steps));
      put_field(lengths_, kLength, lengths);
    }
    for (int lane = 0; lane < options.lanes(); lane++) {
      put_field(lanes_[lane].input, kColumn, random_rows(options, rows, unsigned(lane)));
      for (int block = 0; block < options.blocks; block++) {
        Bytes handles;
        for (int k = 0; k < options.sessions; k++) put_varint(handles, uint64_t(first_handle(lane, block) + k));
        lanes_[lane].handles.emplace_back();
        put_field(lanes_[lane].handles.back(), kHandle, handles);
      }
    }
  }

  std::string path() const override { return "/gatestream.v1.Gatestream/Stream"; }

  bool begin(int number, Bytes& out) override {
    Stream& stream = streams_[number];
    const int last = std::min(stream.held + kOpening, active_ + options_.idle);
    for (; stream.held < last; stream.held++, stream.to_open++) {
      Bytes open, message;
      put_field(open, kOpenHandle, uint64_t(stream.held));
      put_field(open, kOpenModel, options_.model);
      put_field(open, kOpenMode, kModeCreate);
      if (options_.gate_bytes) put_field(open, kOpenGates, uint64_t(1));
      if (options_.keep) put_field(open, kOpenOnDisconnect, kOnDisconnectPark);
      put_field(message, kOpen, open);
      put_message(out, message);
    }
    return false;
  }

  void next(int number, Bytes& out) override {
    Lane& lane = lanes_[number];
    lane.block = (lane.block + 1) % options_.blocks;
    lane.owed = options_.sessions * options_.steps;
    const uint64_t* position = &streams_[number / options_.in_flight].position[first_handle(number, lane.block)];
    first_.clear();
    for (int k = 0; k < options_.sessions; k++) put_varint(first_, position[k]);
    const Bytes& handles = lane.handles[lane.block];
    const size_t size = handles.size() + lengths_.size() + 1 + varint_size(first_.size()) + first_.size() +
                        lane.input.size();
    put_prefix(out, 1 + varint_size(size) + size);
    put_head(out, kSteps, size);
    out.append(handles).append(lengths_);
    put_field(out, kFirst, first_);
    out.append(lane.input);
  }

  Received receive(int stream, std::string_view message) override {
    Reader outer(message);
    const uint32_t kind = outer.more() ? outer.field() : 0;
    if (kind == kResults) return results(stream, outer.bytes);
    if (kind == kOpened) {
      if (--streams_[stream].to_open > 0) return {Kind::kPartial, 0};
      return {streams_[stream].held < active_ + options_.idle ? Kind::kBegin : Kind::kReady, 0};
    }
    if (kind == kClosed) {
      closed(stream, outer.bytes);
      return {Kind::kPartial, 0};
    }
    if (kind == kDurable && options_.keep) return {Kind::kPartial, 0};
    if (kind == kError) refused(outer.bytes);
    fail("the server sent a message of kind " + std::to_string(kind) + ", which nobody asked for");
  }

  void end(int stream) override {
    if (streams_[stream].held != 0)
      fail("stream " + std::to_string(stream) + " ended with " + std::to_string(streams_[stream].held) +
           " sessions that were not closed");
  }

 private:
  struct Stream {
    std::vector<uint64_t> position;  // by handle, steps answered
    int to_open = 0;                 // asked for and not opened
    int held = 0;                    // opened, or asked for
  };
  struct Lane {
    std::vector<Bytes> handles;  // by block, as a field
    Bytes input;                 // as a field
    int block = -1;
    int owed = 0;  // steps not yet answered
  };

  int first_handle(int lane, int block) const {
    return lane % options_.in_flight * of_lane_ + block * options_.sessions;
  }

  Received results(int stream, std::string_view results) {
    std::string_view handles, lengths, firsts;
    size_t output_bytes = 0, gate_bytes = 0;
    for (Reader reader(results); reader.more();) {
      switch (reader.field()) {
        case kHandle: handles = reader.bytes; break;
        case kLength: lengths = reader.bytes; break;
        case kFirst: firsts = reader.bytes; break;
        case kColumn: output_bytes += reader.bytes.size(); break;
        case kGate: gate_bytes += reader.bytes.size(); break;
      }
    }
    int number = -1;
    uint64_t rows = 0;
    Reader handle(handles), length(lengths), first(firsts);
    while (handle.more()) {
      const uint64_t h = handle.varint(), steps = lengths.empty() ? 1 : length.varint(), at = first.varint();
      if (h >= uint64_t(active_)) fail("results for handle " + std::to_string(h) + ", which was never stepped");
      number = stream * options_.in_flight + int(h) / of_lane_;
      Lane& lane = lanes_[number];
      uint64_t& position = streams_[stream].position[h];
      if (int(h) / options_.sessions % options_.blocks != lane.block || position != at || int64_t(steps) > lane.owed)
        fail("handle " + std::to_string(h) + ": results for " + std::to_string(steps) + " steps from position " +
             std::to_string(at) + "; expected position " + std::to_string(position) + ", of a lane that is owed " +
             std::to_string(lane.owed) + " steps");
      position += steps;
      lane.owed -= int(steps);
      rows += steps;
    }
    if (number < 0 || length.more() || first.more()) fail("results whose columns disagree");
    if (output_bytes != rows * uint64_t(options_.outputs) * 4 || gate_bytes != rows * uint64_t(options_.gate_bytes))
      fail("results for " + std::to_string(rows) + " rows with " + std::to_string(output_bytes) + " bytes of output and " +
           std::to_string(gate_bytes) + " of gates");
    return {lanes_[number].owed == 0 ? Kind::kAnswered : Kind::kPartial, number};
  }

  void closed(int stream, std::string_view closed) {
    for (Reader reader(closed); reader.more();)
      if (reader.field() == kHandle)
        for (Reader handles(reader.bytes); handles.more(); handles.varint()) streams_[stream].held--;
  }

  [[noreturn]] static void refused(std::string_view error) {
    Bytes text = "the server refused";
    for (Reader reader(error); reader.more();) {
      const uint32_t field = reader.field();
      if (field == kErrorReason) text += ", reason " + std::to_string(reader.value);
      if (field == kErrorMessage) text += ": " + Bytes(reader.bytes);
    }
    fail(text);
  }

  const Options options_;
  const int of_lane_;
  const int active_;
  std::vector<Stream> streams_;
  std::vector<Lane> lanes_;
  Bytes lengths_;  // as a field; empty where every entry has one step
  Bytes first_;
};

}  // namespace

std::unique_ptr<Wire> make_gatestream_wire(const Options& options) { return std::make_unique<GatestreamWire>(options); }
