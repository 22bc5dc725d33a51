// All layers of a step in one call, where the experts live in this process.
#include "clock.h"
#include "grouped_mlp.h"
#include "layer.h"

#define GALERNE_API __attribute__((visibility("default")))

using namespace galerne;

struct LocalLayer {
  const Layer* layer;
  bf16* cache;
  Experts shared, routed;
};

// Room for what the experts of one layer compute.
struct LocalScratch {
  char* front;       // as galerne_layer_scratch says
  int64_t* places;   // see routed_mlp
  int64_t* zeros;    // [num_tokens]: every token goes to the shared expert
  char* memory;      // as galerne_mlp_bytes says, of the larger of both calls
  bf16* shared_out;  // [num_tokens, hidden]
  bf16* routed_out;  // [num_tokens, top_k, hidden]
};

extern "C" {

// `rows->residual` through all layers, bit for bit as layer by layer. `rows->seconds` has 6: those of
// the front, then shared expert, routed experts, combine.
GALERNE_API int32_t galerne_local_layers(int32_t family, int32_t num_threads,
                                         const LocalLayer* layers, int64_t num_layers,
                                         const Step* step, const Rows* rows,
                                         const LocalScratch* scratch) {
  const Family* f = family_of(family);
  if (!f) return BAD_FAMILY;
  if (num_threads < 1 || num_threads > MAX_THREADS) return BAD_SIZE;
  Rows mine = *rows;
  const int64_t num_tokens = step->num_tokens;
  const ExpertChange *of_shared[MAX_CHANGES], *of_routed[MAX_CHANGES];  // of the layer at hand
  const auto changes = [&](const ExpertChange* const* tables) {
    return ExpertChanges{step->max_rank, step->num_changes, step->change_of, tables};
  };
  for (int64_t i = 0; i < num_layers; ++i) {
    const Layer& l = *layers[i].layer;
    mine.cache = layers[i].cache;
    mine.layer = i;
    for (int64_t c = 0; c < step->num_changes; ++c) {
      of_shared[c] = &step->changes[c][i].shared;
      of_routed[c] = step->changes[c][i].routed;
    }
    layer_front(*f, num_threads, l, *step, mine, scratch->front);
    const Routed shared{mine.normed, num_tokens, l.hidden, scratch->zeros, 1, layers[i].shared,
                        changes(of_shared)};
    const Routed routed{mine.normed, num_tokens, l.hidden, mine.expert_ids, l.top_k,
                        layers[i].routed, changes(of_routed)};
    if (!has_format(layers[i].shared.format) || !has_format(layers[i].routed.format))
      return BAD_FAMILY;
    if (!has_experts(shared) || !has_experts(routed)) return BAD_INDEX;
    const double start = seconds_now();
    routed_mlp(*f, num_threads, shared, scratch->places, scratch->memory, scratch->shared_out);
    const double after_shared = seconds_now();
    routed_mlp(*f, num_threads, routed, scratch->places, scratch->memory, scratch->routed_out);
    const double after_routed = seconds_now();
    combine_rows(*f, num_threads, scratch->shared_out, scratch->routed_out, mine.weights,
                 num_tokens, l.top_k, l.hidden, mine.residual);
    mine.seconds[3] += after_shared - start;
    mine.seconds[4] += after_routed - after_shared;
    mine.seconds[5] += seconds_now() - after_routed;
  }
  return OK;
}

}  // extern "C"
