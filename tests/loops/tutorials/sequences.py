"""Sequences: names, language models, translation, time series."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn, optim

from .registry import tutorial


@tutorial("NLP From Scratch: Classifying Names with a Character-Level RNN (updates by hand)")
def char_rnn_classification():
    class RNN(nn.Module):
        def __init__(self, input_size, hidden_size, output_size):
            super().__init__()
            self.hidden_size = hidden_size
            self.i2h = nn.Linear(input_size, hidden_size)
            self.h2h = nn.Linear(hidden_size, hidden_size)
            self.h2o = nn.Linear(hidden_size, output_size)
            self.softmax = nn.LogSoftmax(dim=1)

        def forward(self, input, hidden):
            hidden = F.tanh(self.i2h(input) + self.h2h(hidden))
            output = self.h2o(hidden)
            output = self.softmax(output)
            return output, hidden

        def initHidden(self):
            return torch.zeros(1, self.hidden_size)

    rnn, criterion, learning_rate = RNN(5, 6, 3), nn.NLLLoss(), 0.005
    current_loss = 0
    for _ in range(3):
        category_tensor = torch.randint(3, (1,))
        line_tensor = F.one_hot(torch.randint(5, (4, 1)), 5).float()
        hidden = rnn.initHidden()
        rnn.zero_grad()
        for i in range(line_tensor.size()[0]):
            output, hidden = rnn(line_tensor[i], hidden)
        loss = criterion(output, category_tensor)
        loss.backward()
        for p in rnn.parameters():
            p.data.add_(p.grad.data, alpha=-learning_rate)
        current_loss += loss.item()
    return list(rnn.parameters())


@tutorial("NLP From Scratch: Generating Names with a Character-Level RNN")
def char_rnn_generation():
    i2h, i2o, o2o = nn.Linear(11, 6), nn.Linear(11, 5), nn.Linear(11, 5)
    rnn = nn.ModuleDict({"i2h": i2h, "i2o": i2o, "o2o": o2o})
    dropout, softmax, criterion = nn.Dropout(0.1), nn.LogSoftmax(dim=1), nn.NLLLoss()
    for _ in range(3):
        input_line_tensor = F.one_hot(torch.randint(5, (4, 1)), 5).float()
        target_line_tensor = torch.randint(5, (4,))
        target_line_tensor.unsqueeze_(-1)
        hidden = torch.zeros(1, 6)
        rnn.zero_grad()
        loss = torch.Tensor([0])
        for i in range(input_line_tensor.size(0)):
            input_combined = torch.cat((input_line_tensor[i], hidden), 1)
            hidden = i2h(input_combined)
            output = i2o(input_combined)
            output = softmax(dropout(o2o(torch.cat((hidden, output), 1))))
            loss += criterion(output, target_line_tensor[i])
        loss.backward()
        for p in rnn.parameters():
            p.data.add_(p.grad.data, alpha=-0.0005)
        loss.item() / input_line_tensor.size(0)
    return list(rnn.parameters())


@tutorial("pytorch/examples: word_language_model (truncated backpropagation, updates by hand)")
def word_language_model():
    class RNNModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.encoder = nn.Dropout(0.2), nn.Embedding(12, 6)
            self.rnn, self.decoder = nn.LSTM(6, 6, 2, dropout=0.2), nn.Linear(6, 12)
            self.decoder.weight = self.encoder.weight

        def forward(self, input, hidden):
            emb = self.drop(self.encoder(input))
            output, hidden = self.rnn(emb, hidden)
            output = self.drop(output)
            decoded = self.decoder(output)
            decoded = decoded.view(-1, 12)
            return F.log_softmax(decoded, dim=1), hidden

        def init_hidden(self, bsz):
            weight = next(self.parameters())
            return (weight.new_zeros(2, bsz, 6), weight.new_zeros(2, bsz, 6))

    def repackage_hidden(h):
        if isinstance(h, torch.Tensor):
            return h.detach()
        else:
            return tuple(repackage_hidden(v) for v in h)

    model, criterion, lr = RNNModel(), nn.NLLLoss(), 20 / 100
    train_data = torch.randint(12, (13, 3))
    model.train()
    total_loss = 0.0
    hidden = model.init_hidden(3)
    for i in range(0, train_data.size(0) - 1, 4):
        data, targets = train_data[i : i + 4], train_data[i + 1 : i + 5].reshape(-1)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        total_loss += loss.item()
    model.eval()
    with torch.no_grad():
        hidden = model.init_hidden(3)
        output, hidden = model(train_data[:4], hidden)
        hidden = repackage_hidden(hidden)
    return list(model.parameters())


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.1, max_len=20):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x):
        x = x + self.pe[: x.size(0)]
        return self.dropout(x)


@tutorial("Language Modeling with nn.Transformer and torchtext")
def transformer_language_model():
    class TransformerModel(nn.Module):
        def __init__(self, ntoken=12, d_model=8):
            super().__init__()
            self.pos_encoder = PositionalEncoding(d_model)
            encoder_layers = nn.TransformerEncoderLayer(d_model, 2, 16, 0.2)
            self.transformer_encoder = nn.TransformerEncoder(encoder_layers, 2)
            self.embedding = nn.Embedding(ntoken, d_model)
            self.d_model = d_model
            self.linear = nn.Linear(d_model, ntoken)
            self.embedding.weight.data.uniform_(-0.1, 0.1)

        def forward(self, src):
            src = self.embedding(src) * math.sqrt(self.d_model)
            src = self.pos_encoder(src)
            src_mask = nn.Transformer.generate_square_subsequent_mask(len(src))
            output = self.transformer_encoder(src, src_mask)
            output = self.linear(output)
            return output

    model, criterion = TransformerModel(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1.0, gamma=0.95)
    train_data = torch.randint(12, (13, 3))
    for _ in range(2):
        model.train()
        total_loss = 0.0
        for i in range(0, train_data.size(0) - 1, 4):
            data, targets = train_data[i : i + 4], train_data[i + 1 : i + 5].reshape(-1)
            output = model(data)
            loss = criterion(output.view(-1, 12), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            total_loss += loss.item()
        model.eval()
        with torch.no_grad():
            model(train_data[:4])
        scheduler.step()
    return list(model.parameters())


@tutorial("karpathy/nanoGPT: accumulation, scaler, clipping, weight decay in groups")
def nano_gpt():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)

        def forward(self, x):
            B, T, C = x.size()
            q, k, v = self.c_attn(x).split(8, dim=2)
            q, k, v = (t.view(B, T, 2, C // 2).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)
            return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(12, 8), nn.Embedding(6, 8)
            self.ln, self.attn, self.mlp = (
                nn.LayerNorm(8),
                Attention(),
                nn.Sequential(nn.Linear(8, 16), nn.GELU()),
            )
            self.out, self.lm_head = nn.Linear(16, 8), nn.Linear(8, 12, bias=False)
            self.wte.weight = self.lm_head.weight

        def forward(self, idx, targets):
            x = self.wte(idx) + self.wpe(torch.arange(idx.size(1)))
            x = x + self.attn(self.ln(x))
            x = x + self.out(self.mlp(x))
            logits = self.lm_head(x)
            return logits, F.cross_entropy(
                logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1
            )

    model = GPT()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    nodecay = [p for p in model.parameters() if p.dim() < 2]
    optimizer = optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": nodecay, "weight_decay": 0.0}], fused=True
    )
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    ctx = torch.amp.autocast(device_type="cpu", dtype=torch.bfloat16)
    gradient_accumulation_steps = 2
    X, Y = torch.randint(12, (3, 6)), torch.randint(12, (3, 6))
    for _ in range(2):
        for _ in range(gradient_accumulation_steps):
            with ctx:
                _, loss = model(X, Y)
                loss = loss / gradient_accumulation_steps
            X, Y = torch.randint(12, (3, 6)), torch.randint(12, (3, 6))
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
    return list(model.parameters())


@tutorial("NLP From Scratch: Translation with a Sequence to Sequence Network and Attention")
def seq2seq_translation():
    class EncoderRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru, self.dropout = (
                nn.Embedding(9, 6),
                nn.GRU(6, 6, batch_first=True),
                nn.Dropout(0.1),
            )

        def forward(self, input):
            embedded = self.dropout(self.embedding(input))
            output, hidden = self.gru(embedded)
            return output, hidden

    class AttnDecoderRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.gru, self.out = (
                nn.Embedding(9, 6),
                nn.GRU(12, 6, batch_first=True),
                nn.Linear(6, 9),
            )
            self.Wa, self.Ua, self.Va = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, encoder_outputs, encoder_hidden, target_tensor=None):
            decoder_input = torch.empty(encoder_outputs.size(0), 1, dtype=torch.long).fill_(0)
            decoder_hidden = encoder_hidden
            decoder_outputs = []
            for i in range(4):
                query = decoder_hidden.permute(1, 0, 2)
                scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(encoder_outputs)))
                weights = F.softmax(scores.squeeze(2).unsqueeze(1), dim=-1)
                context = torch.bmm(weights, encoder_outputs)
                input_gru = torch.cat((self.embedding(decoder_input), context), dim=2)
                output, decoder_hidden = self.gru(input_gru, decoder_hidden)
                decoder_outputs.append(self.out(output))
                if target_tensor is not None:
                    decoder_input = target_tensor[:, i].unsqueeze(1)
                else:
                    _, topi = decoder_outputs[-1].topk(1)
                    decoder_input = topi.squeeze(-1).detach()
            decoder_outputs = torch.cat(decoder_outputs, dim=1)
            return F.log_softmax(decoder_outputs, dim=-1), decoder_hidden

    encoder, decoder, criterion = EncoderRNN(), AttnDecoderRNN(), nn.NLLLoss()
    encoder_optimizer, decoder_optimizer = (optim.Adam(m.parameters(), lr=0.001) for m in (encoder, decoder))
    total_loss = 0
    for teacher in (True, False):
        input_tensor, target_tensor = torch.randint(9, (3, 5)), torch.randint(9, (3, 4))
        encoder_optimizer.zero_grad()
        decoder_optimizer.zero_grad()
        encoder_outputs, encoder_hidden = encoder(input_tensor)
        decoder_outputs, _ = decoder(encoder_outputs, encoder_hidden, target_tensor if teacher else None)
        loss = criterion(decoder_outputs.view(-1, 9), target_tensor.view(-1))
        loss.backward()
        encoder_optimizer.step()
        decoder_optimizer.step()
        total_loss += loss.item()
    return [*encoder.parameters(), *decoder.parameters()]


@tutorial("pytorch/examples: time_sequence_prediction (LBFGS on sine waves)")
def time_sequence_prediction():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm1, self.lstm2, self.linear = nn.LSTMCell(1, 5), nn.LSTMCell(5, 5), nn.Linear(5, 1)

        def forward(self, input, future=0):
            outputs = []
            h_t, c_t, h_t2, c_t2 = (torch.zeros(input.size(0), 5, dtype=torch.double) for _ in range(4))
            for input_t in input.split(1, dim=1):
                h_t, c_t = self.lstm1(input_t, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                output = self.linear(h_t2)
                outputs += [output]
            for _ in range(future):
                h_t, c_t = self.lstm1(output, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                output = self.linear(h_t2)
                outputs += [output]
            return torch.cat(outputs, dim=1)

    waves = torch.sin(torch.arange(8.0)[None] / 2 + torch.rand(4, 1) * 6).double()
    input, target = waves[1:, :-1], waves[1:, 1:]
    seq = Sequence()
    seq.double()
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=4)
    for _ in range(2):

        def closure():
            optimizer.zero_grad()
            out = seq(input)
            loss = criterion(out, target)
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            pred = seq(waves[:1, :-1], future=3)
            criterion(pred[:, :-3], waves[:1, 1:]).item()
    return list(seq.parameters())


@tutorial("Advanced: Making Dynamic Decisions and the Bi-LSTM CRF (per-sentence training)")
def part_of_speech_tagger():
    class LSTMTagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.word_embeddings, self.lstm, self.hidden2tag = (
                nn.Embedding(9, 6),
                nn.LSTM(6, 6),
                nn.Linear(6, 3),
            )
            self.transitions = nn.Parameter(torch.randn(3, 3))

        def forward(self, sentence):
            lstm_out, _ = self.lstm(self.word_embeddings(sentence).view(len(sentence), 1, -1))
            return self.hidden2tag(lstm_out.view(len(sentence), -1))

        def neg_log_likelihood(self, sentence, tags):
            feats = self(sentence)
            alpha = torch.full((1, 3), 0.0)
            for feat in feats:
                alpha = torch.logsumexp(alpha + self.transitions, dim=1).view(1, -1) + feat
            score = torch.zeros(1)
            previous = tags[0]
            for feat, tag in zip(feats, tags):
                score = score + self.transitions[tag, previous] + feat[tag]
                previous = tag
            return torch.logsumexp(alpha, 1) - score

    model = LSTMTagger()
    optimizer = optim.SGD(model.parameters(), lr=0.01, weight_decay=1e-4)
    for length in (3, 5, 4):
        model.zero_grad()
        loss = model.neg_log_likelihood(torch.randint(9, (length,)), torch.randint(3, (length,)))
        loss.backward()
        optimizer.step()
    return list(model.parameters())
