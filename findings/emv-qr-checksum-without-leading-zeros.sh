#!/usr/bin/env bash
# One would guess: a QR code library that works for one merchant's QR works for all of them: the checksum at the end (tag 63, four hexadecimal
#   digits) is the same simple CRC everywhere, so an integration test with a handful of QR codes shows whether it is right.
# Really, it depends on the amount of the day. emv-qrcps 0.0.7 writes a checksum without its leading zeros ("6303C05" for "63040C05"): one QR
#   code in sixteen is not valid. emvqr 0.0.5 pads to an even number of digits: it refuses one valid QR code in about 256, those whose checksum
#   begins with "00". The last one here, steplix-emv-qrcps 0.0.8, is a copy of the first that has it right.
# Seen with those and promptparse 1.6.0 (npm), Node.js 20 on 2026-11-30. Needs nothing else.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts emv-qrcps@0.0.7 emvqr@0.0.5 steplix-emv-qrcps@0.0.8 promptparse@1.6.0 >/dev/null
cat >try.js <<'JS'
const promptparse = require('promptparse'), emvqr = require('emvqr');

const tag = (id, value) => id + `${value.length}`.padStart(2, '0') + value;
// A dynamic QRIS: a merchant account of ID.CO.QRIS.WWW, currency 360 (IDR), an amount in tag 54.
const qris = (amount) => promptparse.withCrcTag([
  tag('00', '01'), tag('01', '12'), tag('26', tag('00', 'ID.CO.QRIS.WWW') + tag('02', 'ID1020017611111')), tag('52', '5411'), tag('53', '360'),
  tag('54', `${amount}`), tag('58', 'ID'), tag('59', 'WARUNG SATU'), tag('60', 'JAKARTA'), tag('61', '10110')].join(''), '63');
// The same checksum, written out from its definition: CRC-16, polynomial 0x1021, first value 0xFFFF.
const checksum = (text) => [...Buffer.from(text)].reduce((crc, byte) => {
  crc ^= byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1) & 0xffff;
  return crc;
}, 0xffff).toString(16).toUpperCase().padStart(4, '0');

const codes = Array.from({ length: 4096 }, (_, i) => qris(10000 + i));
const wrong = codes.filter((code) => checksum(code.slice(0, -4)) !== code.slice(-4));
console.log(`node ${process.version}: 4096 QRIS of Rp 10000 to Rp 14095 by promptparse 1.6.0, wrong checksums: ${wrong.length}`);

// Reads each code and writes it again, which must give the same text.
const rewritten = (library) => {
  const { Merchant } = require(library);
  const changed = codes.map((code) => [code, Merchant.Parser.toEMVQR(code).generatePayload()]).filter(([code, again]) => again !== code);
  console.log(`${library} writes ${changed.length} otherwise`, changed.length ? `like ${changed[0].map((code) => code.slice(-8)).join(' as ')}` : '');
  const unreadable = changed.filter(([, again]) => promptparse.parse(again, true) === null);
  return changed.length === unreadable.length && changed.every(([code]) => code.at(-4) === '0') ? changed.length : -1;
};
const short = rewritten('emv-qrcps'), fork = rewritten('steplix-emv-qrcps');

const refused = codes.filter((code) => { try { emvqr.decode(code); } catch (error) { return /checksum/.test(error.message); } });
console.log(`emvqr refuses ${refused.length}, with the checksums`, refused.map((code) => code.slice(-4)).join(' '));

const asSeen = wrong.length === 0 && short === 252 && fork === 0 && refused.length === 19 && refused.every((code) => code.slice(-4, -2) === '00');
console.log(asSeen ? 'as seen on 2026-11-30' : 'CHANGED');
process.exit(asSeen ? 0 : 1);
JS
node try.js
