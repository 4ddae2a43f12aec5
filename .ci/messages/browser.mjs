// Judges what only a parser of the channel's markup or a browser can: `browser.mjs MESSAGES SCRATCH [GALLERY]`.
//
// - Slack: every text that Slack parses goes through slack-message-parser; what it finds must be the template's own.
// - Markdown of other chats: markdown-it, with bare addresses made links as those chats do.
// - Teams: Microsoft's own renderer of Adaptive Cards, in Chromium. It must know every element, and nothing may be clickable
//   but the card's actions.
// - Mail: the HTML in Chromium, with scripts and the network allowed to try: none may run, nothing may be asked for.
//
// With GALLERY, a directory, it also takes the pictures of docs/gallery.md.

import { readdirSync, readFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';
import MarkdownIt from 'markdown-it';
import { chromium } from 'playwright-core';
import { NodeType, parse as parseSlack } from 'slack-message-parser';
import { EmbedBuilder } from '@discordjs/builders';

const [messages, scratch, gallery] = process.argv.slice(2);
const LINK_HOSTS = new Set(['app.halosecurity.com', 'wiki.example.org']);
const problems = [];
const problem = (where, what) => problems.push(`${where}: ${what}`);

function isOwnLink(address) {
  try {
    const url = new URL(address);
    return url.protocol === 'https:' && LINK_HOSTS.has(url.host) && !url.username;
  } catch {
    return false;
  }
}

function* documents(channel) {
  const directory = join(messages, channel);
  if (!existsSync(directory)) return;
  for (const file of readdirSync(directory).sort()) {
    if (file.endsWith('.json')) yield [`${channel}/${file}`, JSON.parse(readFileSync(join(directory, file), 'utf8'))];
  }
}

/** Every text with the object it stands in and its name there. */
function* texts(value, owner = null, name = '') {
  if (typeof value === 'string') yield [value, owner, name];
  else if (Array.isArray(value)) for (const item of value) yield* texts(item, owner, name);
  else if (value && typeof value === 'object') for (const [key, member] of Object.entries(value)) yield* texts(member, value, key);
}

/** A judge that finds nothing wrong with what is wrong is blind. */
async function mustFind(what, judge) {
  const before = problems.length;
  await judge();
  if (problems.length === before) throw new Error(`${what} was not found: this check is blind`);
  problems.length = before;
}

// ---------------------------------------------------------------- Slack

// Whom the samples of the shape `mention` call.
const CALLS = new Set(['<!here>', '<!subteam^S0123ABCD>']);
const isHostile = (where) => where.includes('.hostile');

function* nodes(node) {
  yield node;
  for (const child of [...(node.children ?? []), ...(Array.isArray(node.label) ? node.label : [])]) yield* nodes(child);
}

/** Templates set whole lines in bold, if need be after an emoji. An asterisk of an event inside would end it early, and the rest be no whole line. */
const isOwnBold = (node, text) => node.type === NodeType.Bold && text.split('\n').some((line) => line.replace(/^\p{Emoji_Presentation} /u, '') === node.source);
/** The parser takes anything between two colons. */
const isNoEmoji = (node) => node.type === NodeType.Emoji && !/^:[\w+'-]+(::[\w-]+)?:$/.test(node.source);

/** Of one text that Slack parses: commands, mentions and foreign addresses never; other markup not in hostile samples. */
function judgeMrkdwn(where, text) {
  for (const node of nodes(parseSlack(text))) {
    switch (node.type) {
      case NodeType.Text: case NodeType.Root: break;
      case NodeType.URL:
        if (!isOwnLink(node.url.replaceAll('&amp;', '&'))) problem(where, `links to ${node.url}`);
        break;
      case NodeType.Command: case NodeType.UserLink: case NodeType.ChannelLink:
        if (!where.endsWith('.mention.json') || !CALLS.has(node.source)) problem(where, `${NodeType[node.type]} ${node.source}`);
        break;
      default:
        if (isOwnBold(node, text) || isNoEmoji(node)) break;
        if (isHostile(where) && node.source.match(/evil|[bisc]\b|quote|skull|\+1/)) problem(where, `${NodeType[node.type]} from event text: ${node.source.slice(0, 80)}`);
    }
  }
}

async function slack() {
  for (const bad of ['subject :skull: evil', '*HIGH · evil* rest*', '~evil~', 'x *evil* x']) await mustFind(bad, () => judgeMrkdwn('bad.hostile', bad.replace('skull', '+1')));
  for (const bad of ['<!channel>', '<@U1>', '<#C1>', '<https://evil.example|x>', '<!subteam^S1>']) await mustFind(bad, () => judgeMrkdwn('bad', bad));
  let count = 0;
  for (const channel of ['slack', 'slack-bot', 'mattermost', 'rocket_chat']) {
    for (const [where, message] of documents(channel)) {
      for (const [text, owner, name] of texts(message)) {
        const parsed = owner === message ? name === 'text' : owner.type === 'mrkdwn' && name === 'text';
        const attachment = ['pretext', 'text', 'fallback', 'value'].includes(name) && owner.type === undefined && owner !== message;
        if (parsed || attachment) {
          count += 1;
          judgeMrkdwn(where, text);
        }
      }
    }
  }
  console.log(`Slack markup: ${count} texts`);
}

// ---------------------------------------------------------------- Markdown of other chats

const markdown = new MarkdownIt({ html: false, linkify: true });
// `<!…>` is Slack's alone, and its judge reads the chats that take Slack's notation.
const MENTION = /@(all|channel|here|everyone)\b|@\*\*|(?<!\\)<[@#]|<users\//;
// Zulip knows no mentions in angle brackets: <https://zulip.com/help/mention-a-user-or-group>
const ZULIP_MENTION = /@(all|channel|here|everyone)\b|[@#]_?\*\*/;

// Whom the samples of the shape `mention` call, behind the headline of the text that notifies.
const CALLS_OF = {
  discord: ' @here @everyone <@123456789012345678> <@&123456789012345678>',
  mattermost: ' @here @all @ops',
  rocket_chat: ' @here @all @ops',
  zulip: ' @**all** @**ops**',
};

function judgeMarkdown(where, text) {
  const walk = (tokens) => {
    for (const token of tokens) {
      const address = token.type === 'link_open' ? token.attrGet('href') : token.type === 'image' ? token.attrGet('src') : null;
      if (address !== null && !isOwnLink(address)) problem(where, `Markdown ${token.type} to ${address}`);
      if (isHostile(where) && ['html_block', 'html_inline', 'fence'].includes(token.type)) problem(where, `Markdown ${token.type}`);
      if (token.children) walk(token.children);
    }
  };
  walk(markdown.parse(text, {}));
  const own = where.endsWith('.mention.json') ? CALLS_OF[where.split('/')[0]] ?? '' : '';
  const [first, ...rest] = text.split('\n');
  const others = [first.endsWith(own) ? first.slice(0, first.length - own.length) : first, ...rest].join('\n');
  const called = others.match(where.startsWith('zulip/') ? ZULIP_MENTION : MENTION);
  if (called) problem(where, `a mention: ${called[0]}`);
}

/** The library checks limits and shapes as each part is set. */
function buildEmbed({ title, description, url, color, fields, footer, author, timestamp }) {
  const embed = new EmbedBuilder();
  if (title !== undefined) embed.setTitle(title);
  if (description !== undefined) embed.setDescription(description);
  if (url !== undefined) embed.setURL(url);
  if (color !== undefined) embed.setColor(color);
  if (fields !== undefined) embed.setFields(fields);
  if (footer !== undefined) embed.setFooter(footer);
  if (author !== undefined) embed.setAuthor(author);
  if (timestamp !== undefined) embed.setTimestamp(new Date(timestamp));
}

async function chats() {
  const threw = (embed) => { try { buildEmbed(embed); } catch { problem('bad', 'threw'); } };
  for (const bad of [{ title: 'x'.repeat(257) }, { fields: [{ name: 'x', value: 'x'.repeat(1025) }] }, { color: -1 }, { url: 'x' }]) await mustFind('a bad embed', () => threw(bad));
  for (const bad of ['[x](https://evil.example)', 'https://evil.example', '@everyone', '![x](https://app.example/x.png)', '<@1>']) await mustFind(bad, () => judgeMarkdown('bad', bad));
  const parsed = {
    discord: ['content', 'title', 'description', 'name', 'value'],
    mattermost: ['text', 'pretext', 'title', 'value', 'fallback'],
    rocket_chat: ['text', 'title', 'value'],
    // A topic is no Markdown: https://zulip.com/help/format-your-message-using-markdown
    zulip: ['content'],
  };
  for (const [channel, names] of Object.entries(parsed)) {
    let count = 0;
    for (const [where, message] of documents(channel)) {
      for (const [text, , name] of texts(message)) {
        if (!names.includes(name)) continue;
        count += 1;
        judgeMarkdown(where, text);
      }
      if (channel === 'discord') {
        try {
          message.embeds?.forEach(buildEmbed);
        } catch (error) {
          problem(where, `@discordjs/builders: ${error.message.slice(0, 300)}`);
        }
      }
    }
    if (count) console.log(`Markdown of ${channel}: ${count} texts`);
  }
}

// ---------------------------------------------------------------- Chromium

/** A page that may run scripts and ask for anything; what it asks for is refused and noted. */
async function watchedPage(browser, options = {}) {
  const context = await browser.newContext(options);
  const asked = [];
  await context.route('**/*', (route) => {
    asked.push(route.request().url());
    return route.abort();
  });
  const page = await context.newPage();
  const said = [];
  page.on('dialog', (dialog) => { said.push(dialog.message()); dialog.dismiss(); });
  return { page, asked, said, close: () => context.close() };
}

async function teams(browser) {
  const bundle = await esbuild.build({
    stdin: { contents: readFileSync(new URL('cards.js', import.meta.url), 'utf8'), resolveDir: fileURLToPath(new URL('.', import.meta.url)), loader: 'js' },
    bundle: true, write: false, format: 'iife', platform: 'browser', target: 'chrome120', logLevel: 'error',
  });
  const all = [...documents('teams')].map(([where, message]) => [where, message.attachments[0].content]);
  const { page, asked, said, close } = await watchedPage(browser, { viewport: { width: 720, height: 900 } });
  await page.setContent('<!doctype html><body></body>');
  await page.addScriptTag({ content: bundle.outputFiles[0].text });
  const judge = async (some) => {
    const found = await page.evaluate((cards) => cards.map((card) => window.judgeCard(card)), some.map(([, card]) => card));
    found.forEach((seen, index) => {
      const [where] = some[index];
      for (const event of seen.events) problem(where, `the official renderer says: ${event}`);
      for (const address of [...seen.links, ...seen.actions]) if (!isOwnLink(address)) problem(where, `leads to ${address}`);
      if (seen.clickable !== seen.actions.length) problem(where, `${seen.clickable} places to click on, of which the template wrote ${seen.actions.length}`);
      if (seen.text.trim() === '') problem(where, 'the card shows nothing');
      for (const address of seen.links) if (!seen.actions.includes(address)) problem(where, `a text became a link: ${address}`);
    });
  };
  const card = (...body) => ({ type: 'AdaptiveCard', version: '1.4', body });
  for (const bad of [
    card({ type: 'TextBlock', text: '[x](https://evil.example)' }),
    card({ type: 'Nonsense' }),
    card({ type: 'TextBlock', text: 'x', color: 'mauve' }),
    card({ type: 'RichTextBlock', inlines: [{ type: 'TextRun', text: 'x', selectAction: { type: 'Action.OpenUrl', url: 'javascript:alert(1)' } }] }),
    card(),
  ]) await mustFind('a bad card', () => judge([['bad', bad]]));
  for (let at = 0; at < all.length; at += 100) await judge(all.slice(at, at + 100));
  for (const what of [...new Set(asked)]) problem('teams', `a card asks the network for ${what}`);
  for (const what of said) problem('teams', `a card runs a script: ${what}`);
  console.log(`Teams cards in Chromium: ${all.length}`);
  if (gallery) await (await import('./gallery.mjs')).cards(page, all, gallery);
  await close();
}

/** What in a mail's HTML could do or fetch something, and where its links lead. Runs inside of the page. */
function lookAtMail() {
  const bad = [];
  const allowed = new Set(['HTML', 'HEAD', 'META', 'TITLE', 'STYLE', 'BODY', 'TABLE', 'TBODY', 'TR', 'TD', 'TH', 'A', 'P', 'DIV', 'SPAN', 'B', 'I', 'BR', 'UL', 'OL', 'LI', 'H1', 'H2', 'HR', 'STRONG', 'EM', 'PRE', 'CODE']);
  for (const node of document.querySelectorAll('*')) {
    if (!allowed.has(node.tagName)) bad.push(`<${node.tagName}>`);
    for (const { name, value } of node.attributes) {
      if (name.startsWith('on') || ['src', 'srcset', 'background', 'action', 'formaction', 'ping'].includes(name)) bad.push(`${name}="${value}"`);
      if (/url\(|expression|@import/i.test(value) && name === 'style') bad.push(`style="${value}"`);
      if (name === 'http-equiv') bad.push('a meta that acts');
    }
    if (node.tagName === 'STYLE' && /url\(|@import/i.test(node.textContent)) bad.push('a style that fetches');
  }
  return { bad, links: [...document.links].map((link) => link.href), width: document.documentElement.scrollWidth, text: document.body.innerText };
}

async function mails(browser) {
  const all = JSON.parse(readFileSync(join(scratch, 'mails.json'), 'utf8'));
  const { page, asked, said, close } = await watchedPage(browser, { viewport: { width: 360, height: 800 } });
  const judge = async ({ where, html, text }) => {
    await page.setContent(html, { waitUntil: 'load' });
    const seen = await page.evaluate(lookAtMail);
    for (const what of seen.bad) problem(where, `the HTML has ${what}`);
    for (const address of seen.links) if (!isOwnLink(address)) problem(where, `the HTML links to ${address}`);
    if (seen.width > 360) problem(where, `the HTML is ${seen.width} pixels wide on a phone of 360`);
    if (!seen.text.includes(text.split('\n')[0].trim().replace(/\s+/g, ' '))) problem(where, 'the HTML does not show the first line of the text');
    for (const what of asked.splice(0)) problem(where, `the mail asks the network for ${what}`);
    for (const what of said.splice(0)) problem(where, `the mail runs a script: ${what}`);
  };
  for (const bad of [
    '<script>alert(1)</script>', '<img src="https://evil.example/x.png">', '<p onclick="alert(1)">x</p>', '<a href="https://evil.example/">x</a>',
    '<a href="javascript:alert(1)">x</a>', '<style>p { background: url(https://evil.example/) }</style><p>', '<meta http-equiv="refresh" content="999">',
    '<table width="600"><tr><td>x</td></tr></table>', '<form action="https://app.halosecurity.com/"><button>x</button></form>',
  ]) await mustFind(`a bad mail, ${bad}`, () => judge({ where: 'bad', html: `<p>first</p>${bad}`, text: 'first' }));
  const withHtml = all.filter((mail) => mail.html);
  for (const mail of withHtml) await judge(mail);
  console.log(`Mails in Chromium: ${withHtml.length}`);
  await close();
  if (gallery) await (await import('./gallery.mjs')).mails(browser, all, gallery);
}

await slack();
await chats();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox', '--disable-gpu', '--force-color-profile=srgb', '--disable-lcd-text'] });
try {
  await teams(browser);
  await mails(browser);
  if (gallery) await (await import('./gallery.mjs')).previews(browser, messages, process.env.RELAY, gallery);
} finally {
  await browser.close();
}
for (const line of problems.slice(0, 60)) console.error(line);
if (problems.length) {
  console.error(`${problems.length} problems`);
  process.exit(1);
}
