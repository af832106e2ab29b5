"""Pictures: classification, super-resolution, siamese networks, style transfer, transfer learning."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from .registry import tutorial


@tutorial("Learn the Basics: Quickstart (FashionMNIST)")
def quickstart():
    class NeuralNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            self.flatten = nn.Flatten()
            self.linear_relu_stack = nn.Sequential(
                nn.Linear(5 * 5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)
            )

        def forward(self, x):
            x = self.flatten(x)
            logits = self.linear_relu_stack(x)
            return logits

    data = TensorDataset(torch.rand(24, 1, 5, 5), torch.randint(4, (24,)))
    train_dataloader, test_dataloader = DataLoader(data, batch_size=6), DataLoader(data, batch_size=6)
    model = NeuralNetwork()
    loss_fn = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)

    def train(dataloader, model, loss_fn, optimizer):
        model.train()
        for batch, (X, y) in enumerate(dataloader):
            pred = model(X)
            loss = loss_fn(pred, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if batch % 2 == 0:
                loss = loss.item()

    def test(dataloader, model, loss_fn):
        num_batches = len(dataloader)
        model.eval()
        test_loss, correct = 0, 0
        with torch.no_grad():
            for X, y in dataloader:
                pred = model(X)
                test_loss += loss_fn(pred, y).item()
                correct += (pred.argmax(1) == y).type(torch.float).sum().item()
        test_loss /= num_batches

    for _ in range(2):
        train(train_dataloader, model, loss_fn, optimizer)
        test(test_dataloader, model, loss_fn)
    return list(model.parameters())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, 1)
        self.conv2 = nn.Conv2d(4, 6, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(24, 8)
        self.fc2 = nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.dropout2(x)
        x = self.fc2(x)
        output = F.log_softmax(x, dim=1)
        return output


def mnist_loader():
    return DataLoader(
        TensorDataset(torch.randn(12, 1, 8, 8), torch.randint(10, (12,))), batch_size=4, shuffle=True
    )


def train_epoch(model, loader, optimizer):
    model.train()
    for data, target in loader:
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()


@tutorial("pytorch/examples: mnist")
def mnist():
    model = Net()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(2):
        train_epoch(model, mnist_loader(), optimizer)
        model.eval()
        test_loss = 0
        with torch.no_grad():
            for data, target in mnist_loader():
                test_loss += F.nll_loss(model(data), target, reduction="sum").item()
        scheduler.step()
    return list(model.parameters())


@tutorial("Transfer Learning for Computer Vision Tutorial")
def transfer_learning():
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model_conv = nn.Sequential(backbone, nn.Linear(4, 1000))
    for param in model_conv.parameters():
        param.requires_grad = False
    model_conv[1] = nn.Linear(4, 2)
    criterion = nn.CrossEntropyLoss()
    optimizer_conv = optim.SGD(model_conv[1].parameters(), lr=0.001, momentum=0.9)
    exp_lr_scheduler = lr_scheduler.StepLR(optimizer_conv, step_size=7, gamma=0.1)
    best, best_acc = copy.deepcopy(model_conv.state_dict()), 0.0
    for _ in range(3):
        for phase in ["train", "val"]:
            if phase == "train":
                model_conv.train()
            else:
                model_conv.eval()
            running_loss, running_corrects = 0.0, 0
            for _ in range(2):
                inputs, labels = torch.randn(4, 3, 6, 6), torch.randint(2, (4,))
                optimizer_conv.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model_conv(inputs)
                    _, preds = torch.max(outputs, 1)
                    loss = criterion(outputs, labels)
                    if phase == "train":
                        loss.backward()
                        optimizer_conv.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += torch.sum(preds == labels.data)
            if phase == "train":
                exp_lr_scheduler.step()
            elif float(running_corrects) / 8 > best_acc:
                best_acc = float(running_corrects) / 8
                best = copy.deepcopy(model_conv.state_dict())
    model_conv.load_state_dict(best)
    return list(model_conv.parameters())


class BasicBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out += identity
        out = self.relu(out)
        return out


@tutorial("pytorch/examples: imagenet (a small residual network)")
def imagenet():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        BasicBlock(), BasicBlock(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    losses = []
    for _ in range(2):
        model.train()
        for _ in range(2):
            images, target = torch.randn(4, 3, 10, 10), torch.randint(5, (4,))
            output = model(images)
            loss = criterion(output, target)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            output = model(images)
            output.topk(2, 1, True, True)
        scheduler.step()
    return [*model.parameters(), *model.buffers()]


@tutorial("pytorch/examples: super_resolution")
def super_resolution():
    class Upscaler(nn.Module):
        def __init__(self, upscale_factor):
            super().__init__()
            self.relu = nn.ReLU()
            self.conv1 = nn.Conv2d(1, 6, (5, 5), (1, 1), (2, 2))
            self.conv2 = nn.Conv2d(6, 4, (3, 3), (1, 1), (1, 1))
            self.conv4 = nn.Conv2d(4, upscale_factor**2, (3, 3), (1, 1), (1, 1))
            self.pixel_shuffle = nn.PixelShuffle(upscale_factor)
            nn.init.orthogonal_(self.conv1.weight, nn.init.calculate_gain("relu"))
            nn.init.orthogonal_(self.conv4.weight)

        def forward(self, x):
            x = self.relu(self.conv1(x))
            x = self.relu(self.conv2(x))
            x = self.pixel_shuffle(self.conv4(x))
            return x

    model, criterion = Upscaler(2), nn.MSELoss()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    epoch_loss = 0
    for _ in range(3):
        input, target = torch.rand(2, 1, 6, 6), torch.rand(2, 1, 12, 12)
        optimizer.zero_grad()
        loss = criterion(model(input), target)
        epoch_loss += loss.item()
        loss.backward()
        optimizer.step()
    return list(model.parameters())


@tutorial("pytorch/examples: siamese_network")
def siamese_network():
    class SiameseNetwork(nn.Module):
        def __init__(self):
            super().__init__()
            self.resnet = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
            )
            self.fc = nn.Sequential(nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 1))
            self.sigmoid = nn.Sigmoid()

        def forward_once(self, x):
            output = self.resnet(x)
            output = output.view(output.size()[0], -1)
            return output

        def forward(self, input1, input2):
            output1 = self.forward_once(input1)
            output2 = self.forward_once(input2)
            output = torch.cat((output1, output2), 1)
            output = self.fc(output)
            output = self.sigmoid(output)
            return output

    model = SiameseNetwork()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    criterion = nn.BCELoss()
    model.train()
    for _ in range(3):
        images_1, images_2, targets = torch.randn(4, 1, 6, 6), torch.randn(4, 1, 6, 6), torch.ones(4)
        optimizer.zero_grad()
        outputs = model(images_1, images_2).squeeze()
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
    return [*model.parameters(), *model.buffers()]


@tutorial("nn.TripletMarginLoss: embeddings with semi-hard negatives")
def triplet():
    embed = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = optim.AdamW(embed.parameters())
    loss_fn = nn.TripletMarginWithDistanceLoss(
        distance_function=lambda x, y: 1.0 - F.cosine_similarity(x, y), margin=0.5
    )
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        out = F.normalize(embed(torch.randn(9, 6)), dim=1)
        anchor, positive, candidates = out[0:3], out[3:6], out[6:9]
        with torch.no_grad():
            hardest = torch.cdist(anchor, candidates).argmin(1)
        loss = loss_fn(anchor, positive, candidates[hardest])
        loss.backward()
        optimizer.step()
    return list(embed.parameters())


@tutorial("Neural Transfer Using PyTorch (LBFGS on a picture)")
def neural_style_tutorial():
    def gram_matrix(input):
        a, b, c, d = input.size()
        features = input.view(a * b, c * d)
        G = torch.mm(features, features.t())
        return G.div(a * b * c * d)

    class ContentLoss(nn.Module):
        def __init__(self, target):
            super().__init__()
            self.target = target.detach()

        def forward(self, input):
            self.loss = F.mse_loss(input, self.target)
            return input

    class StyleLoss(nn.Module):
        def __init__(self, target_feature):
            super().__init__()
            self.target = gram_matrix(target_feature).detach()

        def forward(self, input):
            G = gram_matrix(input)
            self.loss = F.mse_loss(G, self.target)
            return input

    conv1, conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    content, style = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    style_loss, content_loss = StyleLoss(conv1(style)), ContentLoss(conv2(F.relu(conv1(content))))
    model = nn.Sequential(conv1, style_loss, nn.ReLU(inplace=False), conv2, content_loss)
    input_img = content.clone()
    input_img.requires_grad_(True)
    model.eval()
    model.requires_grad_(False)
    optimizer = optim.LBFGS([input_img], max_iter=5)
    run = [0]
    while run[0] <= 8:

        def closure():
            with torch.no_grad():
                input_img.clamp_(0, 1)
            optimizer.zero_grad()
            model(input_img)
            style_score = style_loss.loss * 1e5
            content_score = content_loss.loss * 1
            loss = style_score + content_score
            loss.backward()
            run[0] += 1
            return style_score + content_score

        optimizer.step(closure)
    with torch.no_grad():
        input_img.clamp_(0, 1)
    return [input_img]


@tutorial("pytorch/examples: fast_neural_style")
def fast_neural_style():
    class TransformerNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.pad = nn.ReflectionPad2d(1)
            self.conv1, self.in1 = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)
            self.conv2 = nn.Conv2d(4, 3, 3)

        def forward(self, X):
            y = F.relu(self.in1(self.conv1(self.pad(X))))
            y = F.interpolate(y, mode="nearest", scale_factor=1)
            return self.conv2(self.pad(y))

    def gram_matrix(y):
        (b, ch, h, w) = y.size()
        features = y.view(b, ch, w * h)
        features_t = features.transpose(1, 2)
        gram = features.bmm(features_t) / (ch * h * w)
        return gram

    def normalize_batch(batch):
        mean = batch.new_tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
        std = batch.new_tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
        batch = batch.div_(255.0)
        return (batch - mean) / std

    transformer = TransformerNet()
    vgg = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    for param in vgg.parameters():
        param.requires_grad = False
    optimizer, mse_loss = optim.Adam(transformer.parameters(), 1e-3), nn.MSELoss()
    style = (torch.rand(1, 3, 8, 8) * 255).repeat(2, 1, 1, 1)
    gram_style = gram_matrix(vgg(normalize_batch(style)))
    agg_content_loss = 0.0
    for _ in range(2):
        x = torch.rand(2, 3, 8, 8) * 255
        optimizer.zero_grad()
        y = transformer(x)
        y = normalize_batch(y)
        x = normalize_batch(x)
        features_y, features_x = vgg(y), vgg(x)
        content_loss = 1e5 * mse_loss(features_y, features_x)
        style_loss = 1e10 * mse_loss(gram_matrix(features_y), gram_style)
        total_loss = content_loss + style_loss
        total_loss.backward()
        optimizer.step()
        agg_content_loss += content_loss.item()
    return list(transformer.parameters())


@tutorial("Adversarial Example Generation (FGSM)")
def fgsm():
    model = Net()
    model.eval()
    adv_examples = []
    for _ in range(3):
        data, target = torch.rand(1, 1, 8, 8), torch.randint(10, (1,))
        data.requires_grad = True
        output = model(data)
        loss = F.nll_loss(output, target)
        model.zero_grad()
        loss.backward()
        data_grad = data.grad.data
        perturbed = torch.clamp(data + 0.1 * data_grad.sign(), 0, 1)
        output = model(perturbed)
        adv_examples.append(perturbed.squeeze().detach())
    return adv_examples


@tutorial("Training a Classifier (CIFAR10)")
def cifar10():
    class ConvNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, 2), nn.Conv2d(4, 4, 3)
            self.fc1 = nn.Linear(16, 10)

        def forward(self, x):
            x = self.pool(F.relu(self.conv1(x)))
            x = F.relu(self.conv2(x))
            return self.fc1(torch.flatten(self.pool(x), 1))

    net, criterion = ConvNet(), nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    for _ in range(2):
        running_loss = 0.0
        for _ in range(3):
            inputs, labels = torch.randn(4, 3, 14, 14), torch.randint(10, (4,))
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return list(net.parameters())
