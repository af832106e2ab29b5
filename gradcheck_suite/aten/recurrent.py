"""Recurrent layers and cells, gate by gate from their definition.

LSTM (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000) and GRU (Cho et al., 2014), in
torch's order of gates: input, forget, cell, output; and reset, update, new.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from ..engine import ops as e
from .registry import RECORDED, MeaningUnavailableError, meaning
from .values import constant, shape_of

_RELU, _TANH, _LSTM, _GRU = range(4)


def _parts(gates, count):
    size = shape_of(gates)[-1] // count
    return [e.getitem(gates, index=(..., slice(i * size, (i + 1) * size))) for i in range(count)]


def lstm_cell(gates, c):
    """New hidden and cell state from the summed gates (..., 4 hidden)."""
    i, f, g, o = _parts(gates, 4)
    c = e.sigmoid(f) * c + e.sigmoid(i) * e.tanh(g)
    return e.sigmoid(o) * e.tanh(c), c


def gru_cell(input_gates, hidden_gates, h):
    """New hidden state; the reset gate scales the hidden part of the new gate, bias included."""
    input_reset, input_update, input_new = _parts(input_gates, 3)
    hidden_reset, hidden_update, hidden_new = _parts(hidden_gates, 3)
    reset, update = e.sigmoid(input_reset + hidden_reset), e.sigmoid(input_update + hidden_update)
    new = e.tanh(input_new + reset * hidden_new)
    return new + update * (h - new)


def _affine(x, weight, bias):
    product = e.matmul(x, e.swapaxes(weight, axis1=0, axis2=1))
    return product if bias is None else product + bias


def scan(x, h, c, w_ih, w_hh, b_ih, b_hh, mode, reverse):
    """One layer in one direction over x (time, batch, features): outputs, last hidden and last cell state."""
    steps = shape_of(x)[0]
    inputs = _affine(x, w_ih, b_ih)
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        here = e.getitem(inputs, index=(t,))
        there = _affine(h, w_hh, b_hh)
        if mode == _LSTM:
            h, c = lstm_cell(here + there, c)
        elif mode == _GRU:
            h = gru_cell(here, there, h)
        else:
            h = e.relu(here + there) if mode == _RELU else e.tanh(here + there)
        outputs[t] = h
    return e.stack(outputs, axis=0), h, c


@meaning("aten::mkldnn_rnn_layer")
def mkldnn_rnn_layer(
    input,
    weight0,
    weight1,
    weight2,
    weight3,
    hx_,
    cx_,
    reverse,
    batch_sizes,
    mode,
    hidden_size,
    num_layers,
    has_biases,
    bidirectional,
    batch_first,
    train,
):
    """One layer in one direction; torch calls it once per layer and direction, with time first."""
    if batch_sizes and len(set(batch_sizes)) > 1:
        raise MeaningUnavailableError(
            f"replaying a recurrent layer failed: it runs over a packed sequence with batch sizes {batch_sizes}. "
            "The kernel's meaning is written for padded sequences. Pad the sequences while checking."
        )
    hidden = e.reshape(hx_, shape=shape_of(hx_)[-2:])
    cell = e.reshape(cx_, shape=shape_of(cx_)[-2:])
    b_ih, b_hh = (weight2, weight3) if has_biases else (None, None)
    out, h, c = scan(input, hidden, cell, weight0, weight1, b_ih, b_hh, mode, reverse)
    return out, e.reshape(h, shape=shape_of(hx_)), e.reshape(c, shape=shape_of(cx_)), RECORDED


@meaning("aten::_cudnn_rnn")
def cudnn_rnn(
    input,
    weight,
    weight_stride0,
    weight_buf,
    hx,
    cx,
    mode,
    hidden_size,
    proj_size,
    num_layers,
    batch_first,
    dropout,
    train,
    bidirectional,
    batch_sizes,
    dropout_state,
):
    """All layers and directions at once; ``weight`` lists w_ih, w_hh (and b_ih, b_hh) of each."""
    if batch_sizes or proj_size or (dropout and train and num_layers > 1):
        raise MeaningUnavailableError(
            f"replaying a recurrent layer failed: batch_sizes={list(batch_sizes)}, proj_size={proj_size}, "
            f"dropout={dropout}. The fused kernel's meaning is written for padded sequences without projection, "
            "and it does not return what it dropped. Check on CPU, or without these options."
        )
    directions = 2 if bidirectional else 1
    x = e.swapaxes(input, axis1=0, axis2=1) if batch_first else input
    last_hidden, last_cell = [], []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            own = weight[index * weight_stride0 : (index + 1) * weight_stride0]
            w_ih, w_hh, b_ih, b_hh = (*own, None, None)[:4]
            h = e.getitem(hx, index=(index,))
            c = None if cx is None else e.getitem(cx, index=(index,))
            out, h, c = scan(x, h, c, w_ih, w_hh, b_ih, b_hh, mode, direction == 1)
            outputs.append(out)
            last_hidden.append(h)
            last_cell.append(c)
        x = outputs[0] if directions == 1 else e.concatenate(outputs, axis=2)
    out = e.swapaxes(x, axis1=0, axis2=1) if batch_first else x
    cell = e.stack(last_cell, axis=0) if mode == _LSTM else RECORDED
    return out, e.stack(last_hidden, axis=0), cell, RECORDED, RECORDED


def _biased(gates, bias):
    return gates if bias is None else gates + bias


@meaning("aten::_thnn_fused_lstm_cell")
def fused_lstm_cell(input_gates, hidden_gates, cx, input_bias=None, hidden_bias=None):
    h, c = lstm_cell(_biased(input_gates, input_bias) + _biased(hidden_gates, hidden_bias), cx)
    return h, c, RECORDED


@meaning("aten::_thnn_fused_gru_cell")
def fused_gru_cell(input_gates, hidden_gates, hx, input_bias=None, hidden_bias=None):
    h = gru_cell(_biased(input_gates, input_bias), _biased(hidden_gates, hidden_bias), hx)
    return h, RECORDED


@meaning("aten::_pack_padded_sequence")
def pack_padded_sequence(input, lengths, batch_first):
    """The steps of sequences sorted by falling length, time by time, without the padding."""
    x = e.swapaxes(input, axis1=0, axis2=1) if batch_first else input
    present = np.arange(shape_of(x)[0])[:, None] < np.asarray(lengths)[None, :]
    return e.getitem(x, index=np.nonzero(present)), RECORDED


@meaning("aten::_pack_padded_sequence_backward")
def pack_padded_sequence_backward(grad, input_size, batch_sizes, batch_first):
    """The adjoint of packing: steps go back to where they were, padding gets zero."""
    size = tuple(input_size)
    time, batch = (size[1], size[0]) if batch_first else (size[0], size[1])
    present = np.arange(batch)[None, :] < np.asarray(batch_sizes)[:, None]
    full = e.setitem(constant(np.zeros((time, batch, *size[2:]))), grad, index=np.nonzero(present))
    return e.swapaxes(full, axis1=0, axis2=1) if batch_first else full
