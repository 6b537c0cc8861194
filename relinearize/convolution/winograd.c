/* 3x3 convolutions with padding 1 and stride 1 or 2, and their gradients, by Winograd's minimal filtering in float32.

   Lavin and Gray, "Fast algorithms for convolutional neural networks" (CVPR 2016). Along one axis a tile's results are
   A'[(G g) * (B' d)]: the window d of inputs and the kernel g are transformed to points, whose products are transformed
   back. In two dimensions that is done along both axes, and over all channels the product at each point is a matrix
   product. There are three kinds of convolution, all with 36 matrices of weights:

     SAME      stride 1, F(4, 3): 4 results of a window of 6 by 6 products instead of 12. Its input's gradient is the
               same convolution with the kernel rotated and its two kinds of channels exchanged.
     HALVING   stride 2: y[h] = g0 x[2h-1] + g1 x[2h] + g2 x[2h+1]. Odd inputs meet a kernel of two, F(4, 2) with 5
               products; even ones a kernel of one, 4 products with one weight.
     DOUBLING  the gradient of HALVING's input: odd results F(4, 2) of a window of 5 and (g2, g0), even ones g1 y[h].

   Points are 0, 1, -1, 2, -2 and infinity in F(4, 3); 0, 1, -1, 2 and infinity in F(4, 2).

   Images and gradients are N x H x W x C in memory (channels_last), C a multiple of LANES. Maps need not be multiples
   of a tile: tiles stand out over their right and lower rim. Tiles are handled in blocks whose matrices stay in the
   caches. A convolution's sums run in one order, whatever the number of threads; so do those of a gradient of weights.

   Working memory, in panels of LANES channels:
     tiles     [point][channels / LANES][tile][LANES]
     weights   [weight][channels out / LANES][channel in][LANES]                                                      */

#include <stdlib.h>

enum { SAME, HALVING, DOUBLING };

#define WEIGHTS 6 /* along one axis, of all kinds */
#define MATRICES 36
#define LANES 16
#define HALF 8
#define ROWS 6 /* of LANES results each: what the registers hold */
#define APART 16 /* floats between matrices, which else would fall onto the same cache lines */
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * HALF), aligned(4)));

INLINE vector load(const float *from) { return *(const vector *)from; }
INLINE void store(float *to, vector value) { *(vector *)to = value; }
INLINE long least(long a, long b) { return a < b ? a : b; }

/* Along one axis. */
INLINE int window_of(int kind) { return kind == SAME ? 6 : kind == HALVING ? 9 : 5; }
INLINE int points_of(int kind) { return kind == SAME ? 6 : 9; }
INLINE int results_of(int kind) { return kind == DOUBLING ? 8 : 4; }

/* ---- the transforms along one axis ------------------------------------------------------------------------------- */

INLINE void two_tap_window(const vector *d, long step, vector *to) { /* B' of F(4, 2) */
    vector a = d[3 * step] - 2 * d[2 * step], b = d[3 * step] - d[step];
    to[0] = a + 2 * d[0] - d[step];
    to[1] = d[3 * step] - d[2 * step] - 2 * d[step];
    to[2] = d[3 * step] - 3 * d[2 * step] + 2 * d[step];
    to[3] = b;
    to[4] = d[4 * step] - d[2 * step] - 2 * b;
}

INLINE void two_tap_results(const vector *m, long step, vector *to) { /* A' of F(4, 2) */
    vector p = m[1] + m[2], q = m[1] - m[2];
    to[0] = m[0] + p + m[3];
    to[step] = q + 2 * m[3];
    to[2 * step] = p + 4 * m[3];
    to[3 * step] = q + 8 * m[3] + m[4];
}

INLINE void input_transform(const int kind, const vector *d, vector *to) { /* B' */
    if (kind == SAME) {
        vector a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
        to[0] = 4 * d[0] - 5 * d[2] + d[4];
        to[1] = a + b;
        to[2] = a - b;
        to[3] = c + e;
        to[4] = c - e;
        to[5] = 4 * d[1] - 5 * d[3] + d[5];
    } else if (kind == HALVING) {
        two_tap_window(d, 2, to);
        to[5] = d[1], to[6] = d[3], to[7] = d[5], to[8] = d[7];
    } else {
        two_tap_window(d, 1, to);
        to[5] = d[0], to[6] = d[1], to[7] = d[2], to[8] = d[3];
    }
}

INLINE void output_transform(const int kind, const vector *m, vector *to) { /* A' */
    if (kind == SAME) {
        vector p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
        to[0] = m[0] + p + r;
        to[1] = q + 2 * s;
        to[2] = p + 4 * r;
        to[3] = q + 8 * s + m[5];
    } else if (kind == HALVING) {
        two_tap_results(m, 1, to);
        to[0] += m[5], to[1] += m[6], to[2] += m[7], to[3] += m[8];
    } else {
        two_tap_results(m, 2, to + 1);
        to[0] = m[5], to[2] = m[6], to[4] = m[7], to[6] = m[8];
    }
}

INLINE void gradient_transform(const int kind, const vector *y, vector *to) { /* A */
    vector p = y[0] + y[2], q = y[1] + y[3], r = y[0] + 4 * y[2], s = 2 * y[1] + 8 * y[3];
    to[0] = y[0];
    to[1] = p + q;
    to[2] = p - q;
    to[3] = r + s;
    if (kind == SAME) {
        to[4] = r - s;
        to[5] = y[3];
    } else {
        to[4] = y[3];
        to[5] = y[0], to[6] = y[1], to[7] = y[2], to[8] = y[3];
    }
}

INLINE void weight_transform(const int kind, const vector *g, vector *to) { /* G */
    if (kind == SAME) {
        vector p = (g[0] + g[2]) * (-1.0f / 6), q = g[1] * (1.0f / 6);
        vector r = g[0] * (1.0f / 24) + g[2] * (1.0f / 6), s = g[1] * (1.0f / 12);
        to[0] = g[0] * 0.25f;
        to[1] = p - q;
        to[2] = p + q;
        to[3] = r + s;
        to[4] = r - s;
        to[5] = g[2];
    } else {
        to[0] = g[0] * 0.5f;
        to[1] = (g[0] + g[2]) * -0.5f;
        to[2] = (g[2] - g[0]) * (1.0f / 6);
        to[3] = g[0] * (1.0f / 6) + g[2] * (1.0f / 3);
        to[4] = g[2];
        to[5] = g[1];
    }
}

INLINE void weight_gradient_transform(const int kind, const vector *u, vector *to) { /* G' */
    if (kind == SAME) {
        vector p = (u[1] + u[2]) * (1.0f / 6), q = (u[2] - u[1]) * (1.0f / 6), r = u[3] + u[4], s = u[3] - u[4];
        to[0] = u[0] * 0.25f - p + r * (1.0f / 24);
        to[1] = q + s * (1.0f / 12);
        to[2] = r * (1.0f / 6) - p + u[5];
    } else {
        to[0] = (u[0] - u[1]) * 0.5f + (u[3] - u[2]) * (1.0f / 6);
        to[1] = u[5];
        to[2] = u[1] * -0.5f + u[2] * (1.0f / 6) + u[3] * (1.0f / 3) + u[4];
    }
}

/* ---- along both axes --------------------------------------------------------------------------------------------- */

/* HALF channels of a window of inputs, or (`gradients`) of a tile's gradient; pixels lie `down` and `across` floats
   apart. */
INLINE void to_points(const int kind, const int gradients, const float *from, long down, long across, float *to,
                      long apart) {
    void (*const transform)(const int, const vector *, vector *) = gradients ? gradient_transform : input_transform;
    const int side = gradients ? results_of(kind) : window_of(kind), points = points_of(kind);
    vector columns[9][9], d[9], result[9];
    for (int j = 0; j < side; j++) {
#pragma GCC unroll 9
        for (int i = 0; i < side; i++) d[i] = load(from + i * down + j * across);
        transform(kind, d, result);
#pragma GCC unroll 9
        for (int i = 0; i < points; i++) columns[i][j] = result[i];
    }
    for (int i = 0; i < points; i++, to += points * apart) {
        transform(kind, columns[i], result);
#pragma GCC unroll 9
        for (int j = 0; j < points; j++) store(to + j * apart, result[j]);
    }
}

INLINE void points_to_results(const int kind, const float *from, long apart, vector offset, float *to, long down,
                              long across) {
    const int side = results_of(kind), points = points_of(kind);
    vector lines[8][9], m[9], result[8];
    for (int j = 0; j < points; j++) {
#pragma GCC unroll 9
        for (int i = 0; i < points; i++) m[i] = load(from + (i * points + j) * apart);
        output_transform(kind, m, result);
#pragma GCC unroll 9
        for (int i = 0; i < side; i++) lines[i][j] = result[i];
    }
    for (int i = 0; i < side; i++, to += down) {
        output_transform(kind, lines[i], result);
#pragma GCC unroll 9
        for (int j = 0; j < side; j++) store(to + j * across, result[j] + offset);
    }
}

INLINE vector lanes(const float *from, long stride) {
    if (stride == 1) return load(from);
    vector value;
    for (int lane = 0; lane < HALF; lane++) value[lane] = from[lane * stride];
    return value;
}

/* HALF output channels of a kernel, whose values lie `down`, `across` and `out` floats apart, to its weights. */
INLINE void kernel_to_weights(const int kind, const float *from, long down, long across, long out, float *to,
                              long apart) {
    vector columns[WEIGHTS][3], g[3], result[WEIGHTS];
    for (int j = 0; j < 3; j++) {
        for (int i = 0; i < 3; i++) g[i] = lanes(from + i * down + j * across, out);
        weight_transform(kind, g, result);
        for (int i = 0; i < WEIGHTS; i++) columns[i][j] = result[i];
    }
    for (int i = 0; i < WEIGHTS; i++) {
        weight_transform(kind, columns[i], result);
        for (int j = 0; j < WEIGHTS; j++) store(to + (i * WEIGHTS + j) * apart, result[j]);
    }
}

/* HALF sums of each matrix of weights to the gradient of a kernel, row by row. */
INLINE void sums_to_kernel(const int kind, const float *from, long apart, float *to, long across) {
    vector lines[3][WEIGHTS], u[WEIGHTS], result[3];
    for (int j = 0; j < WEIGHTS; j++) {
        for (int i = 0; i < WEIGHTS; i++) u[i] = load(from + (i * WEIGHTS + j) * apart);
        weight_gradient_transform(kind, u, result);
        for (int i = 0; i < 3; i++) lines[i][j] = result[i];
    }
    for (int i = 0; i < 3; i++) {
        weight_gradient_transform(kind, lines[i], result);
        for (int j = 0; j < 3; j++, to += across) store(to, result[j]);
    }
}

/* ---- the kinds --------------------------------------------------------------------------------------------------- */

typedef struct {
    int window, points, results; /* along one axis */
    int step, before;            /* in the input, from tile to tile; from a window's beginning to its first result */
    void (*window_to_points)(const float *, long, long, float *, long);
    void (*gradient_to_points)(const float *, long, long, float *, long);
    void (*points_to_results)(const float *, long, vector, float *, long, long);
    void (*kernel_to_weights)(const float *, long, long, long, float *, long);
    void (*sums_to_kernel)(const float *, long, float *, long);
} Kind;

#define FUNCTIONS_OF(KIND)                                                                                             \
    static void window_##KIND(const float *from, long down, long across, float *to, long apart) {                      \
        to_points(KIND, 0, from, down, across, to, apart);                                                             \
    }                                                                                                                  \
    static void gradient_##KIND(const float *from, long down, long across, float *to, long apart) {                    \
        to_points(KIND, 1, from, down, across, to, apart);                                                             \
    }                                                                                                                  \
    static void results_##KIND(const float *from, long apart, vector offset, float *to, long down, long across) {      \
        points_to_results(KIND, from, apart, offset, to, down, across);                                                \
    }                                                                                                                  \
    static void weights_##KIND(const float *from, long down, long across, long out, float *to, long apart) {           \
        kernel_to_weights(KIND, from, down, across, out, to, apart);                                                   \
    }                                                                                                                  \
    static void kernel_##KIND(const float *from, long apart, float *to, long across) {                                 \
        sums_to_kernel(KIND, from, apart, to, across);                                                                 \
    }
FUNCTIONS_OF(SAME) FUNCTIONS_OF(HALVING) FUNCTIONS_OF(DOUBLING)

#define ENTRY(KIND, STEP, BEFORE)                                                                                      \
    {window_of(KIND), points_of(KIND), results_of(KIND), STEP, BEFORE, window_##KIND, gradient_##KIND, results_##KIND, \
     weights_##KIND, kernel_##KIND}

static Kind kind_numbered(int number) {
    const Kind kinds[] = {ENTRY(SAME, 4, 1), ENTRY(HALVING, 8, 1), ENTRY(DOUBLING, 4, 0)};
    return kinds[number];
}

/* The matrix of weights that a point in two dimensions meets. */
static int matrix_of(Kind kind, int point) {
    int row = point / kind.points, column = point % kind.points, last = WEIGHTS - 1;
    return least(row, last) * WEIGHTS + least(column, last);
}

/* ---- images to tiles and back ------------------------------------------------------------------------------------ */

typedef struct { int height, width; } Map;
typedef struct { int across, down, count; } Grid; /* of tiles */
typedef struct { int image, row, column; } Place; /* of a tile, in tiles */

static Grid grid_of(Kind kind, int images, Map results) {
    int side = kind.results, across = (results.width + side - 1) / side, down = (results.height + side - 1) / side;
    return (Grid){across, down, images * across * down};
}

static Place place_of(Grid grid, int tile) {
    return (Place){tile / (grid.across * grid.down), tile / grid.across % grid.down, tile % grid.across};
}

/* What stands out over the image's rim is handled in a patch of its own: side x side pixels of LANES channels. */
typedef struct { int row, column, side; } Area;

static int is_inside(Area area, Map map) {
    return area.row >= 0 && area.column >= 0 && area.row + area.side <= map.height &&
           area.column + area.side <= map.width;
}

static void read_patch(Area area, Map map, const float *image, int channels, float *patch) {
    for (int i = 0; i < area.side; i++)
        for (int j = 0; j < area.side; j++, patch += LANES) {
            unsigned row = area.row + i, column = area.column + j;
            int there = row < (unsigned)map.height && column < (unsigned)map.width;
            const float *from = image + ((long)row * map.width + column) * channels;
            for (int half = 0; half < LANES; half += HALF) store(patch + half, there ? load(from + half) : (vector){0});
        }
}

static void write_patch(Area area, Map map, const float *patch, float *image, int channels) {
    for (int i = 0; i < least(area.side, map.height - area.row); i++)
        for (int j = 0; j < least(area.side, map.width - area.column); j++) {
            float *to = image + ((long)(area.row + i) * map.width + area.column + j) * channels;
            for (int half = 0; half < LANES; half += HALF)
                store(to + half, load(patch + (i * area.side + j) * LANES + half));
        }
}

/* A tile's window of inputs, or (`gradients`) the gradient of its results. */
static void read_tile(Kind kind, int gradients, const float *x, Map map, int channels, Place place, float *to,
                      long block, long apart) {
    int side = gradients ? kind.results : kind.window, before = gradients ? 0 : kind.before;
    int step = gradients ? kind.results : kind.step;
    void (*to_points)(const float *, long, long, float *, long) =
        gradients ? kind.gradient_to_points : kind.window_to_points;
    Area area = {place.row * step - before, place.column * step - before, side};
    int inside = is_inside(area, map);
    const float *image = x + (long)place.image * map.height * map.width * channels;
    float patch[9 * 9 * LANES];
    for (int panel = 0; panel < channels; panel += LANES, to += block * LANES) {
        const float *from = image + ((long)area.row * map.width + area.column) * channels + panel;
        long down = (long)map.width * channels, across = channels;
        if (!inside) {
            read_patch(area, map, image + panel, channels, patch);
            from = patch, down = side * LANES, across = LANES;
        }
        for (int half = 0; half < LANES; half += HALF) to_points(from + half, down, across, to + half, apart);
    }
}

static void write_tile(Kind kind, float *y, Map map, int channels, Place place, const float *from, long block,
                       long apart, const float *bias) {
    int side = kind.results;
    Area area = {place.row * side, place.column * side, side};
    int inside = is_inside(area, map);
    float *image = y + (long)place.image * map.height * map.width * channels, patch[8 * 8 * LANES];
    for (int panel = 0; panel < channels; panel += LANES, from += block * LANES) {
        float *to = image + ((long)area.row * map.width + area.column) * channels + panel;
        long down = (long)map.width * channels, across = channels;
        if (!inside) to = patch, down = side * LANES, across = LANES;
        for (int half = 0; half < LANES; half += HALF)
            kind.points_to_results(from + half, apart, bias ? load(bias + panel + half) : (vector){0}, to + half, down,
                                   across);
        if (!inside) write_patch(area, map, patch, image + panel, channels);
    }
}

/* ---- matrix products --------------------------------------------------------------------------------------------- */

/* To `count` rows of LANES sums, the products of rows[r, i] and the LANES values other[i] for i < n. Rows lie
   `row_step` apart, one row's values `step`: constants, so that the 12 vectors stay in registers and addresses cost
   nothing. */
INLINE void accumulate(const int count, const int row_step, const int step, const float *rows, const float *other,
                       int n, vector *low, vector *high) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        vector p = load(other + i * LANES), q = load(other + i * LANES + HALF);
#pragma GCC unroll 6
        for (int r = 0; r < count; r++) {
            float value = rows[r * row_step + i * step];
            low[r] += value * p;
            high[r] += value * q;
        }
    }
}

INLINE void start(const int count, const float *from, long step, int add, vector *low, vector *high) {
#pragma GCC unroll 6
    for (int r = 0; r < count; r++) {
        low[r] = add ? load(from + r * step) : (vector){0};
        high[r] = add ? load(from + r * step + HALF) : (vector){0};
    }
}

INLINE void finish(const int count, float *to, long step, const vector *low, const vector *high) {
#pragma GCC unroll 6
    for (int r = 0; r < count; r++) {
        store(to + r * step, low[r]);
        store(to + r * step + HALF, high[r]);
    }
}

/* A panel of outputs of `count` tiles, from all inputs; panels of these lie `panel` apart. */
INLINE void few_tiles(const int count, const float *rows, long panel, const float *weights, float *result, int inputs) {
    vector low[ROWS], high[ROWS];
    start(count, result, LANES, 0, low, high);
    for (int in = 0; in < inputs; in += LANES, rows += panel, weights += LANES * LANES)
        accumulate(count, LANES, 1, rows, weights, LANES, low, high);
    finish(count, result, LANES, low, high);
}

static void product_of_tiles(const float *rows, long panel, const float *weights, float *result, int inputs,
                             int count) {
    for (; count >= ROWS; count -= ROWS, rows += ROWS * LANES, result += ROWS * LANES)
        few_tiles(ROWS, rows, panel, weights, result, inputs);
    switch (count) {
        case 5: few_tiles(5, rows, panel, weights, result, inputs); break;
        case 4: few_tiles(4, rows, panel, weights, result, inputs); break;
        case 3: few_tiles(3, rows, panel, weights, result, inputs); break;
        case 2: few_tiles(2, rows, panel, weights, result, inputs); break;
        case 1: few_tiles(1, rows, panel, weights, result, inputs); break;
    }
}

/* COUNT outputs by a panel of inputs: sums over tiles, added to those in `result`, whose rows lie `inputs` apart. */
#define SUMS(COUNT)                                                                                                    \
    static void sums##COUNT(const float *rows, const float *other, float *result, long inputs, int tiles, int add) {   \
        vector low[COUNT], high[COUNT];                                                                                \
        start(COUNT, result, inputs, add, low, high);                                                                  \
        accumulate(COUNT, 1, LANES, rows, other, tiles, low, high);                                                    \
        finish(COUNT, result, inputs, low, high);                                                                      \
    }
SUMS(5) SUMS(6)

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Of the calling thread, kept from call to call: fresh pages for every call would cost as much as the transforms. */
static float *scratch(long floats) {
    static _Thread_local float *memory;
    static _Thread_local long size;
    if (floats > size) {
        free(memory);
        memory = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
        size = memory ? floats : 0;
    }
    return memory;
}

/* ---- the convolutions -------------------------------------------------------------------------------------------- */

typedef struct { const float *first; long out, in, row, column; } Kernel; /* strides in floats */

/* One convolution of `x`, or the gradient of its weights. */
typedef struct {
    Kind kind;
    int inputs, outputs, block;
    Map from, to;
    Grid grid;
    const float *x;
    long tiles_apart, results_apart, weights_apart, tiles_size, results_size, weights_size;
} Job;

static Job job_of(int number, const float *x, int images, Map from, int inputs, Map to, int outputs, int block) {
    Kind kind = kind_numbered(number);
    Job job = {.kind = kind, .inputs = inputs, .outputs = outputs, .block = block, .from = from, .to = to, .x = x};
    long points = kind.points * kind.points;
    job.grid = grid_of(kind, images, to);
    job.tiles_apart = (long)block * inputs + APART;
    job.results_apart = (long)block * outputs + APART;
    job.weights_apart = (long)inputs * outputs + APART;
    job.tiles_size = points * job.tiles_apart;
    job.results_size = points * job.results_apart;
    job.weights_size = MATRICES * job.weights_apart;
    return job;
}

static void convolve_block(const Job *job, const float *weights, const float *bias, float *y, int begin, float *tiles,
                           float *results) {
    int count = least(job->block, job->grid.count - begin);
    long panel_apart = (long)job->block * LANES;
    for (int tile = 0; tile < count; tile++)
        read_tile(job->kind, 0, job->x, job->from, job->inputs, place_of(job->grid, begin + tile), tiles + tile * LANES,
                  job->block, job->tiles_apart);
    for (int point = 0; point < job->kind.points * job->kind.points; point++) {
        const float *matrix = weights + matrix_of(job->kind, point) * job->weights_apart;
        for (int panel = 0; panel < job->outputs; panel += LANES)
            product_of_tiles(tiles + point * job->tiles_apart, panel_apart, matrix + (long)panel * job->inputs,
                             results + point * job->results_apart + (long)panel * job->block, job->inputs, count);
    }
    for (int tile = 0; tile < count; tile++)
        write_tile(job->kind, y, job->to, job->outputs, place_of(job->grid, begin + tile), results + tile * LANES,
                   job->block, job->results_apart, bias);
}

/* To the sums of a matrix of weights and a panel of inputs, those over a block of tiles. */
static void sum_block(const Job *job, const float *tiles, const float *gradients, float *sums, int begin, int matrix,
                      int in) {
    int count = least(job->block, job->grid.count - begin), add = begin > 0;
    long inputs = job->inputs;
    for (int point = 0; point < job->kind.points * job->kind.points; point++) {
        if (matrix_of(job->kind, point) != matrix) continue;
        for (int out = 0; out < job->outputs; out += LANES) {
            const float *rows = gradients + point * job->results_apart + (long)out * job->block;
            const float *other = tiles + point * job->tiles_apart + (long)in * job->block;
            float *result = sums + matrix * job->weights_apart + out * inputs + in;
            sums6(rows, other, result, inputs, count, add);
            sums5(rows + 6, other, result + 6 * inputs, inputs, count, add);
            sums5(rows + 11, other, result + 11 * inputs, inputs, count, add);
        }
        add = 1;
    }
}

/* ---- what Python calls; 0, or 1: no memory ----------------------------------------------------------------------- */

/* y (images x to_height x to_width x outputs) of x (images x from_height x from_width x inputs) and the kernel with
   `strides` of out, in, row, column in floats; a rotated kernel has negative ones. bias: of `outputs`, or NULL.
   `block`: tiles at a time and thread. */
int winograd_convolution(int kind, const float *x, const float *kernel, const long *strides, const float *bias,
                         float *y, int images, int from_height, int from_width, int inputs, int to_height, int to_width,
                         int outputs, int block) {
    Map from = {from_height, from_width}, to = {to_height, to_width};
    Job job = job_of(kind, x, images, from, inputs, to, outputs, block);
    float *weights = scratch(job.weights_size + job.tiles_size + job.results_size);
    int failed = !weights;
    if (failed) return 1;
    Kernel given = {kernel, strides[0], strides[1], strides[2], strides[3]};
#pragma omp parallel for collapse(2)
    for (int out = 0; out < outputs; out += LANES)
        for (int in = 0; in < inputs; in++)
            for (int half = 0; half < LANES; half += HALF)
                job.kind.kernel_to_weights(given.first + (out + half) * given.out + in * given.in, given.row,
                                           given.column, given.out, weights + (long)out * inputs + in * LANES + half,
                                           job.weights_apart);
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
    for (int begin = 0; begin < job.grid.count; begin += block) {
        /* The calling thread's memory begins with the weights, which all use. */
        float *memory = scratch(job.tiles_size + job.results_size);
        if (!memory) {
            failed = 1;
            continue;
        }
        float *tiles = memory + (memory == weights ? job.weights_size : 0);
        convolve_block(&job, weights, bias, y, begin, tiles, tiles + job.tiles_size);
    }
    return failed;
}

/* The gradient of the weights of SAME or HALVING, `outputs` x 3 x 3 x `inputs` in memory, from x and that of y. */
int winograd_weight_gradient(int kind, const float *x, const float *gradient, float *weights, int images,
                             int from_height, int from_width, int inputs, int to_height, int to_width, int outputs,
                             int block) {
    Map from = {from_height, from_width}, to = {to_height, to_width};
    Job job = job_of(kind, x, images, from, inputs, to, outputs, block);
    float *tiles = scratch(job.tiles_size + job.results_size + job.weights_size);
    if (!tiles) return 1;
    float *gradients = tiles + job.tiles_size, *sums = gradients + job.results_size;
#pragma omp parallel
    for (int begin = 0; begin < job.grid.count; begin += block) {
        int count = least(block, job.grid.count - begin);
#pragma omp for
        for (int tile = 0; tile < count; tile++) {
            Place place = place_of(job.grid, begin + tile);
            read_tile(job.kind, 0, x, from, inputs, place, tiles + tile * LANES, block, job.tiles_apart);
            read_tile(job.kind, 1, gradient, to, outputs, place, gradients + tile * LANES, block, job.results_apart);
        }
#pragma omp for collapse(2)
        for (int matrix = 0; matrix < MATRICES; matrix++)
            for (int in = 0; in < inputs; in += LANES) sum_block(&job, tiles, gradients, sums, begin, matrix, in);
    }
#pragma omp parallel for
    for (int out = 0; out < outputs; out++)
        for (int in = 0; in < inputs; in += HALF)
            job.kind.sums_to_kernel(sums + (long)out * inputs + in, job.weights_apart, weights + out * 9L * inputs + in,
                                    inputs);
    return 0;
}
