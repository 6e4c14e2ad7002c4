// The Open Inference Protocol, with its streaming and sequence extensions. Field numbers: grpc_predict_v2.proto.
#include <unistd.h>

#include "wire.h"

namespace {

// ModelInferRequest
constexpr uint32_t kModelName = 1, kId = 3, kParameters = 4, kInputs = 5, kRawInputContents = 7;
// A map's entry; InferParameter
constexpr uint32_t kKey = 1, kValue = 2, kBoolParam = 1, kInt64Param = 2;
// InferInputTensor
constexpr uint32_t kName = 1, kDatatype = 2, kShape = 3;
// ModelStreamInferResponse, ModelInferResponse
constexpr uint32_t kErrorMessage = 1, kInferResponse = 2, kResponseId = 3, kRawOutputContents = 6;

class InferenceWire : public Wire {
 public:
  explicit InferenceWire(const Options& options) : options_(options), lanes_(size_t(options.lanes())) {
    if (options.in_flight != 1 || options.sessions != 1 || options.blocks != 1 || options.idle != 0)
      fail("wire inference has one sequence on a stream; leave out --in-flight, --sessions, --blocks and --idle");
    for (int lane = 0; lane < options.lanes(); lane++) {
      const Bytes rows = random_rows(options, size_t(options.steps), unsigned(lane));
      lanes_[lane].first = request(lane, true, false, rows);
      lanes_[lane].middle = request(lane, false, false, rows);
      lanes_[lane].last = request(lane, false, true, rows);
    }
  }

  std::string path() const override { return "/inference.GRPCInferenceService/ModelStreamInfer"; }

  bool begin(int, Bytes&) override { return true; }

  void next(int lane, Bytes& out) override {
    out.append(lanes_[lane].started ? lanes_[lane].middle : lanes_[lane].first);
    lanes_[lane].started = true;
  }

  bool last(int lane, Bytes& out) override {
    if (lanes_[lane].started) out.append(lanes_[lane].last);
    return lanes_[lane].started;
  }

  Received receive(int stream, std::string_view message) override {
    const size_t expected = size_t(options_.steps) * size_t(options_.outputs) * 4;
    std::string_view id, output;
    for (Reader outer(message); outer.more();) {
      const uint32_t field = outer.field();
      if (field == kErrorMessage && !outer.bytes.empty()) fail("the server refused: " + Bytes(outer.bytes));
      if (field != kInferResponse) continue;
      for (Reader response(outer.bytes); response.more();) {
        const uint32_t inner = response.field();
        if (inner == kResponseId) id = response.bytes;
        if (inner == kRawOutputContents && output.empty()) output = response.bytes;
      }
    }
    if (id != std::to_string(stream)) fail("stream " + std::to_string(stream) + " got the answer of '" + Bytes(id) + "'");
    if (output.size() != expected)
      fail("the answer's output has " + std::to_string(output.size()) + " bytes; expected " + std::to_string(expected));
    return {Kind::kAnswered, stream};
  }

 private:
  struct Lane {
    Bytes first, middle, last;
    bool started = false;
  };

  static Bytes parameter(std::string_view name, uint32_t kind, uint64_t value) {
    Bytes parameter, entry;
    put_field(parameter, kind, value);
    put_field(entry, kKey, name);
    put_field(entry, kValue, parameter);
    return entry;
  }

  Bytes request(int lane, bool start, bool end, const Bytes& rows) const {
    // No two generators may use one id at a time.
    const uint64_t sequence = uint64_t(getpid()) << 24 | uint64_t(lane + 1);
    Bytes shape, input, body, message;
    put_varint(shape, 1);
    put_varint(shape, uint64_t(options_.steps));
    if (options_.tokens == 0) put_varint(shape, uint64_t(options_.features));
    put_field(input, kName, "x");
    put_field(input, kDatatype, options_.tokens ? "INT64" : "FP32");
    put_field(input, kShape, shape);
    put_field(body, kModelName, options_.model);
    put_field(body, kId, std::to_string(lane));
    put_field(body, kParameters, parameter("sequence_id", kInt64Param, sequence));
    if (start) put_field(body, kParameters, parameter("sequence_start", kBoolParam, 1));
    if (end) put_field(body, kParameters, parameter("sequence_end", kBoolParam, 1));
    put_field(body, kInputs, input);
    put_field(body, kRawInputContents, rows);
    put_message(message, body);
    return message;
  }

  const Options options_;
  std::vector<Lane> lanes_;
};

}  // namespace

std::unique_ptr<Wire> make_inference_wire(const Options& options) { return std::make_unique<InferenceWire>(options); }
