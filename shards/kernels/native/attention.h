// Latent attention over the paged cache, absorbed for every token (design section 5): keys in blocks
// of absolute position, blocks joined in order within segments of fixed length, segments in order.
// So a token's result depends on its own history only. Scores and sums are float32; queries, keys
// and probabilities are bf16.
#pragma once
#include "scratch.h"

#include <cmath>

namespace galerne {

// How the attention is cut: decodes by segment of keys, prefills by tiles of tokens. A piece is done
// by one thread. Returns the number of pieces; `pieces` may be null to count only.
int64_t cut_pieces(const Layer& l, const Step& s, Piece* pieces);

// One piece: to `mixed`, or to its place in `partial` if the token has several segments.
void attend_piece(const Family& f, const Layer& l, const Step& s, const bf16* cache,
                  Scratch& scratch, int64_t piece, ThreadScratch& mine);

// The segments of a decode, whose first piece this is, joined into `mixed`. Nothing for other pieces.
void join_segments(const Family& f, const Layer& l, const Step& s, Scratch& scratch,
                   int64_t num_pieces, int64_t piece, ThreadScratch& mine);

}  // namespace galerne
