// What the page says of each kind of layer: {equation, forward, gradients, back}, for a reader who has read nothing else.

const WORDS = {
  scale: {
    equation: "x = pixel · factor + shift",
    gradients: "dpixel = dx · factor",
    forward:
      "The network does not take pixels from 0 to 255 as they are: it subtracts the mean of all training images and divides by their standard deviation, so that its numbers lie around 0.",
    back: "The gradient with respect to a pixel: how the loss would move if the pixel were one step brighter. Training has no use for it, but it shows which pixels matter.",
  },
  conv: {
    equation: "y[i, j, f] = b[f] + Σ x[window at i, j] · w[:, :, :, f]",
    gradients: "dx[r, c, k] = Σ w · dy      dw[p, q, k, f] = Σ x · dy      db[f] = Σ dy",
    forward:
      "A small window of weights, the kernel, slides over the image. At each position every pixel under the window is multiplied by the weight that lies on it; the products are added up, and a bias b if there is one. That is one number of y. The same weights are used at every position.",
    back: "A pixel of x was read by several windows. Through each of them it moved one number of y, by the weight that lay on it. So dx is the sum of weight · dy over these windows. A weight met a pixel at every position, so dw is the sum of pixel · dy over all positions (and db, if there is a bias, the sum of dy).",
  },
  dense: {
    equation: "y[u] = b[u] + Σ x[k] · w[k, u]",
    gradients: "dx[k] = Σ w[k, u] · dy[u]      dw[k, u] = x[k] · dy[u]      db[u] = dy[u]",
    forward: "Every output sees every input: all numbers of x, each times a weight of its own, are added up.",
    back: "A number of x moved every output, each by its weight: dx[k] is the sum of w[k, u] · dy[u] over the outputs. A weight met one number of x and moved one output: dw[k, u] = x[k] · dy[u].",
  },
  batchnorm: {
    equation: "y = gamma · (x − mean) / √(variance + epsilon) + beta",
    gradients: "dx = dy · gamma / √(variance + epsilon)      dgamma = Σ x̂ · dy      dbeta = Σ dy",
    forward:
      "Each channel is shifted and scaled by what training has learnt. In use, mean and variance are running averages from training, so this is one multiplication and one addition a channel.",
    back: "Shown as the network is in use: mean and variance are fixed, so dx = dy · gamma / √(variance + epsilon). In training they depend on the batch, and two more terms flow back through them (see layers/normalization.py).",
  },
  activation: {
    equation: "y = f(x), number by number",
    gradients: "dx = dy · f′(x)",
    forward: "A bend between two linear layers. Without it, all layers together would be one matrix.",
    back: "The chain rule for one number: dx = dy · f′(x). Where f is flat, nothing comes back.",
  },
  maxpool2d: {
    equation: "y = the largest number of the window",
    gradients: "dx = Σ of the dy of the windows it won",
    forward:
      "Of each window only the largest number goes on, so the image gets smaller and small shifts do not matter. In the sum the winner counts 1, all others 0.",
    back: "Only the winner moved the output, so dy goes to the winner alone. A pixel that won several windows receives their sum.",
  },
  averagepool2d: {
    equation: "y = the mean of the window",
    gradients: "dx = Σ dy / pixels of the window",
    forward: "Each window becomes the mean of its pixels.",
    back: "Every pixel moved the mean by an equal part, so every pixel receives an equal part of dy.",
  },
  globalmaxpool2d: {
    equation: "y[c] = the largest number of channel c",
    gradients: "dx = dy for the winner, else 0",
    forward:
      "Of each channel only the largest number of the whole image goes on: whether something was found, not where.",
    back: "dy goes to the pixel that won its channel. All others receive 0.",
  },
  globalaveragepool2d: {
    equation: "y[c] = the mean of channel c",
    gradients: "dx = dy / number of pixels",
    forward: "Each channel becomes its mean over the whole image.",
    back: "Every pixel receives dy divided by the number of pixels.",
  },
  flatten: {
    equation: "y = x, as one row",
    gradients: "dx = dy, as an image",
    forward: "The same numbers in the same order, written as one row.",
    back: "The gradients go back to where the numbers came from.",
  },
  dropout: {
    equation: "y = x (in training: noise)",
    gradients: "dx = dy",
    forward:
      "In training, some numbers are set to 0 at random, so that the network relies on no single one. In use, as here, nothing happens.",
    back: "In use dx = dy.",
  },
  softmax: {
    equation: "y[k] = exp(x[k]) / Σ exp(x)",
    gradients: "dx[k] = Σ dy[m] · y[m] · ([m = k] − y[k])",
    forward: "Any numbers become probabilities: all positive, with sum 1.",
    back: "Raising one input raises its own share at the cost of all others: dx[k] = Σ dy[m] · y[m] · ([m = k] − y[k]).",
  },
  residual: {
    equation: "y = branch(x) + shortcut(x)",
    gradients: "dx = dx of the branch + dx of the shortcut",
    forward:
      "The layers inside learn what to add to their input; the shortcut hands the input on, as it is or through one layer.",
    back: "A sum hands its dy to both terms, and x was read by both paths: dx is the sum of what comes back through them.",
  },
};

const ACTIVATION_NAMES = {
  relu: "ReLU: max(0, x)",
  leakyrelu: "Leaky ReLU: x, or a small part of it where it is negative",
  sigmoid: "sigmoid: 1 / (1 + exp(−x))",
  tanh: "the hyperbolic tangent",
  silu: "SiLU: x · sigmoid(x)",
  gelu: "GELU: x times the chance that a normal number is below x",
};

/** {equation, forward, gradients, back} for a node. */
export function wordsOf(node) {
  const words = WORDS[node.kind];
  if (node.kind === "activation") return { ...words, equation: `y = ${ACTIVATION_NAMES[node.f]}` };
  const biased = node.b || !["conv", "dense"].includes(node.kind);
  return biased
    ? words
    : {
        ...words,
        equation: words.equation.replace(/b\[.\] \+ /, ""),
        gradients: words.gradients.replace(/ +db.*/, ""),
      };
}

/** The sort of layer, in a word or two. */
export function kindOf(node) {
  const names = {
    scale: "pixels to numbers",
    conv: "convolution",
    batchnorm: "batch norm",
    activation: node.f,
    residual: "residual block",
  };
  const pools = {
    maxpool2d: "max pooling",
    averagepool2d: "average pooling",
    globalmaxpool2d: "global max",
    globalaveragepool2d: "global mean",
  };
  return names[node.kind] ?? pools[node.kind] ?? node.kind;
}

const SECOND = {
  conv: "w",
  dense: "w",
  scale: "factor",
  batchnorm: "scale",
  activation: "f′(x)",
  softmax: "y · ([same] − y)",
  maxpool2d: "[wins]",
  globalmaxpool2d: "[wins]",
  averagepool2d: "share",
  globalaveragepool2d: "share",
};

/** What the two numbers of a term are called, for a number of y, x (dx), w, b, gamma or beta. */
export function factorsOf(node, end) {
  const gradients = { w: "x · dy", b: "1 · dy", beta: "1 · dy", gamma: "x̂ · dy" };
  if (gradients[end]) return gradients[end];
  if (node.kind === "residual") return "both paths";
  return `${end === "y" ? "x" : "dy"} · ${SECOND[node.kind] ?? "1"}`;
}

/** A shape as it is spoken: 28 × 28 × 32. */
export function shapeOf(shape) {
  return shape.join(" × ");
}

/** Where a number stands: "row 5, column 7, channel 3". */
export function placeInWords(place) {
  if (place.length === 3) return `row ${place[0]}, column ${place[1]}, channel ${place[2]}`;
  return place.length === 1 ? `number ${place[0]}` : `[${place.join(", ")}]`;
}

/** What a convolution is given besides its size: stride, padding, dilation, groups, where they are not the usual ones. */
export function settingsOf(node) {
  if (!node.window) return "";
  const { size, stride, padding, dilation } = node.window;
  const told = [`window ${size.join(" × ")}`, `stride ${stride.join(", ")}`];
  const sides = padding.flat();
  if (sides.some(Boolean))
    told.push(
      `padding ${sides.every((n) => n === sides[0]) ? sides[0] : `top ${sides[0]}, bottom ${sides[1]}, left ${sides[2]}, right ${sides[3]}`}`,
    );
  if (dilation.some((n) => n > 1)) told.push(`dilation ${dilation.join(", ")}`);
  if (node.groups > 1) told.push(`${node.groups} groups`);
  return told.join(" · ");
}
